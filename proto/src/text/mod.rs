//! YAML or JSON to any message of the descriptor set, and back, by the canonical JSON mapping of protobuf, with
//! every nested `Any` opened through its `@type`. Unknown fields are refused.
//!
//! [`parse`] keeps positions: its errors name line and column, and its [`Positions`] find the place that a later
//! rule complains about. [`to_dynamic`] takes a value without positions; its errors name the path of keys as
//! written, for callers that keep an index of their own. All input is bounded: [`MAX_BYTES`], [`MAX_DEPTH`],
//! [`MAX_NODES`] and [`MAX_COPIED`].

use std::fmt;

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use thiserror::Error;

use crate::POOL;
pub use crate::path::Positions;

mod convert;
mod tree;
mod yaml;

pub use self::tree::{Content, Key, Node};

#[cfg(test)]
mod tests;

/// The longest text that is read.
pub const MAX_BYTES: usize = 8 << 20;
/// The deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 80;
/// The most values, lists and maps in one text.
pub const MAX_NODES: usize = 500_000;
/// The most values that aliases of one text may copy; a long text counts as several.
pub const MAX_COPIED: usize = 50_000;
/// The most errors that one call reports.
const MAX_ERRORS: usize = 50;

/// A place in a text, both counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing wrong with a text or value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Problem {
    /// Keys as written and list indices (`filter_chains[0].filters[1].typedConfig`); empty for the whole.
    pub path: String,
    /// Where, if the input had positions.
    pub position: Option<Position>,
    /// What.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "line {} column {}: ", position.line, position.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.reason.fmt(f)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// Not YAML or JSON, or a part of YAML that has no meaning here.
    #[error("{0}")]
    Syntax(String),
    /// More bytes than [`MAX_BYTES`].
    #[error("{found} bytes are more than the {MAX_BYTES} allowed")]
    TooLong {
        /// How many there are.
        found: usize,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// More than [`MAX_NODES`], or more copies by alias than [`MAX_COPIED`].
    #[error("more than {limit} values{}", if *limit == MAX_COPIED { " copied by aliases" } else { "" })]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The message has no such field.
    #[error("{message} has no field {name:?}{}", nearest.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default())]
    UnknownField {
        /// The key.
        name: String,
        /// The message's full name.
        message: String,
        /// The field whose name is most alike.
        nearest: Option<String>,
    },
    /// One field by both of its names.
    #[error("{name:?} is given twice")]
    Twice {
        /// The proto field name.
        name: String,
    },
    /// Two members of one oneof.
    #[error("{name:?} excludes {other:?}, which is given too")]
    Exclusive {
        /// The later member.
        name: String,
        /// The earlier member.
        other: String,
    },
    /// An `Any` without a text `@type`.
    #[error("an extension needs \"@type\", for instance \"type.googleapis.com/envoy...\"")]
    NoType,
    /// No such message, or not of the form `type.googleapis.com/NAME`.
    #[error("unknown type {0:?}")]
    UnknownType(String),
    /// A scalar, list or map where the field takes something else.
    #[error("expected {expected}, found {found}")]
    Shape {
        /// What the field takes.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A scalar that the field's type does not have.
    #[error("{0}")]
    Value(String),
}

/// Everything wrong with one input, at most 50 of it; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// A message with the positions of its fields. Without `Debug`, because prost-reflect's prints all of a message,
/// secrets too, and its descriptor, which for recursive types never ends.
#[derive(Clone)]
pub struct Parsed {
    /// The message.
    pub message: DynamicMessage,
    /// Where its fields stand.
    pub positions: Positions,
}

/// Reads YAML or JSON into a tree that knows where each part stands, for callers with a vocabulary of their own.
///
/// # Errors
/// Where the text is no YAML, repeats a key, or passes a bound.
pub fn read(text: &str) -> Result<Node, Problem> {
    yaml::read(text)
}

/// The descriptor of a message by its full name, for instance `envoy.config.listener.v3.Listener`.
pub fn descriptor(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// Reads one YAML or JSON document as a message.
pub fn parse(descriptor: &MessageDescriptor, text: &str) -> Result<Parsed, Problems> {
    let tree = yaml::read(text).map_err(|problem| Problems(vec![problem]))?;
    convert::convert(descriptor, &tree).map(|(message, positions)| Parsed { message, positions })
}

/// Reads one YAML or JSON document as a generated type.
pub fn parse_as<M: Message + Name + Default>(text: &str) -> Result<M, Problems> {
    let whole = |reason| Problems(vec![Problem { path: String::new(), position: None, reason }]);
    let descriptor = descriptor(&M::full_name()).ok_or_else(|| whole(Reason::UnknownType(M::full_name())))?;
    let parsed = parse(&descriptor, text)?;
    parsed.message.transcode_to().map_err(|error| whole(Reason::Value(error.to_string())))
}

/// Converts a value in the JSON mapping to a message.
pub fn to_dynamic(
    descriptor: &MessageDescriptor,
    value: &serde_json::Value,
) -> Result<DynamicMessage, Problems> {
    let tree = tree::from_value(value).map_err(|problem| Problems(vec![problem]))?;
    convert::convert(descriptor, &tree).map(|(message, _)| message)
}

/// Converts a generated message to a dynamic one. `None` if its type is not in the descriptor set, or if its bytes
/// are nested deeper than protobuf allows.
pub fn from_typed<M: Message + Name>(message: &M) -> Option<DynamicMessage> {
    DynamicMessage::decode(descriptor(&M::full_name())?, message.encode_to_vec().as_slice()).ok()
}

/// A message that cannot be written as text.
#[derive(Debug, Error)]
pub enum Unwritable {
    /// An `Any` of a type outside the descriptor set, or bytes that are not of their type.
    #[error("not a message that has a text form")]
    Json(#[source] serde_json::Error),
    /// The same, from the YAML writer.
    #[error("not a message that has a text form")]
    Yaml(#[source] Box<serde_saphyr::SerializeError>),
}

/// Writes a message in the JSON mapping, with proto field names and every `Any` opened.
pub fn to_json(message: &DynamicMessage) -> Result<serde_json::Value, Unwritable> {
    message.serialize_with_options(serde_json::value::Serializer, &output()).map_err(Unwritable::Json)
}

/// Writes a message as YAML, with proto field names and every `Any` opened.
pub fn to_yaml(message: &DynamicMessage) -> Result<String, Unwritable> {
    serde_saphyr::to_string(&Written(message)).map_err(|error| Unwritable::Yaml(Box::new(error)))
}

fn output() -> SerializeOptions {
    SerializeOptions::new().use_proto_field_name(true)
}

struct Written<'a>(&'a DynamicMessage);

impl serde::Serialize for Written<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &output())
    }
}
