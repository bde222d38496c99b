//! A tree to a message. What is nested is walked here, so that errors have paths; scalars and the well-known
//! types are left to prost-reflect.

use std::collections::HashMap;

use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};

use super::tree::{Content, Key, Node};
use super::{MAX_ERRORS, Position, Positions, Problem, Problems, Reason};
use crate::POOL;
use crate::path::{push, shortened};
use crate::sensitive::is_sensitive;

const TYPE_KEY: &str = "@type";
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The message, or all that is wrong.
pub(super) fn convert(
    descriptor: &MessageDescriptor,
    node: &Node,
) -> Result<(DynamicMessage, Positions), Problems> {
    let mut walk = Walk { positions: node.position.map(Positions::new), ..Walk::default() };
    match walk.message(descriptor, node) {
        Some(message) if walk.problems.is_empty() => Ok((message, walk.positions.unwrap_or_default())),
        _ => Err(Problems(walk.problems)),
    }
}

#[derive(Default)]
struct Walk {
    /// Keys as written.
    written: String,
    /// Inside a field that holds secrets.
    secret: bool,
    /// The same path in proto field names, as validation reports it, and where its parts stand.
    positions: Option<Positions>,
    place: usize,
    problems: Vec<Problem>,
}

impl Walk {
    fn refuse<T>(&mut self, position: Option<Position>, reason: Reason) -> Option<T> {
        if self.problems.len() < MAX_ERRORS {
            self.problems.push(Problem { path: self.written.clone(), position, reason });
        }
        None
    }

    fn refuse_shape<T>(&mut self, node: &Node, expected: &'static str) -> Option<T> {
        self.refuse(node.position, Reason::Shape { expected, found: node.kind() })
    }

    /// Does something one step further down, at a value.
    fn below<T>(
        &mut self,
        written: &str,
        canonical: &str,
        position: Option<Position>,
        act: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let (length, place) = (self.written.len(), self.place);
        push(&mut self.written, written);
        if let (Some(positions), Some(position)) = (&mut self.positions, position) {
            self.place = positions.add(place, canonical, position);
        }
        let result = act(self);
        self.written.truncate(length);
        self.place = place;
        result
    }

    /// Refuses a key.
    fn refuse_key<T>(&mut self, key: &str, position: Option<Position>, reason: Reason) -> Option<T> {
        self.below(&shortened(key), "", None, |walk| walk.refuse(position, reason))
    }

    fn message(&mut self, descriptor: &MessageDescriptor, node: &Node) -> Option<DynamicMessage> {
        if descriptor.full_name() == "google.protobuf.Any" {
            return self.any(descriptor, node);
        }
        if is_well_known(descriptor) {
            return self.delegate(descriptor, node, node.to_value());
        }
        let Content::Map(entries) = &node.content else { return self.refuse_shape(node, "a map") };
        self.fields(descriptor, entries.iter())
    }

    fn fields<'a>(
        &mut self,
        descriptor: &MessageDescriptor,
        entries: impl Iterator<Item = &'a (Key, Node)>,
    ) -> Option<DynamicMessage> {
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut given: Vec<FieldDescriptor> = Vec::new();
        for (key, node) in entries {
            let found = descriptor
                .get_field_by_json_name(&key.name)
                .or_else(|| descriptor.get_field_by_name(&key.name));
            let Some(field) = found else {
                let reason = Reason::UnknownField {
                    name: shortened(&key.name),
                    message: descriptor.full_name().to_owned(),
                    nearest: nearest(descriptor, &key.name),
                };
                self.refuse_key::<()>(&key.name, key.position, reason);
                continue;
            };
            let secret_above = self.secret;
            self.secret |= is_sensitive(&field);
            self.below(&key.name, field.name(), node.position, |walk| {
                if let Some(reason) = clash(&given, &field) {
                    walk.refuse::<()>(key.position, reason);
                } else if let Some(value) = walk.field(&field, node) {
                    // Without presence a default value is an absent one, and messages compare by what they hold.
                    if field.supports_presence() || !value.is_default_for_field(&field) {
                        message.set_field(&field, value);
                    }
                    given.push(field.clone());
                }
            });
            self.secret = secret_above;
        }
        Some(message)
    }

    /// `None` if the field is left out, or wrong.
    fn field(&mut self, field: &FieldDescriptor, node: &Node) -> Option<Value> {
        if matches!(node.content, Content::Null) && !takes_null(field) {
            return None;
        }
        if field.is_map() {
            return self.map(field, node);
        }
        if !field.is_list() {
            return self.single(field, node);
        }
        let Content::List(items) = &node.content else { return self.refuse_shape(node, "a list") };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let step = format!("[{index}]");
            let value = self.below(&step, &step, item.position, |walk| walk.single(field, item));
            list.extend(value);
        }
        Some(Value::List(list))
    }

    fn map(&mut self, field: &FieldDescriptor, node: &Node) -> Option<Value> {
        let Content::Map(entries) = &node.content else { return self.refuse_shape(node, "a map") };
        let kind = field.kind();
        let entry = kind.as_message()?;
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let mut map = HashMap::with_capacity(entries.len());
        for (key, item) in entries {
            let name = shortened(&key.name);
            let converted = self.below(&name, &format!("[{name}]"), item.position, |walk| {
                Some((walk.map_key(&key_field, key)?, walk.single(&value_field, item)?))
            });
            map.extend(converted);
        }
        Some(Value::Map(map))
    }

    fn map_key(&mut self, field: &FieldDescriptor, key: &Key) -> Option<MapKey> {
        let content = match (field.kind(), key.name.as_str()) {
            (Kind::Bool, "true") => Content::Bool(true),
            (Kind::Bool, "false") => Content::Bool(false),
            _ => Content::Text(key.name.clone()),
        };
        self.single(field, &Node { position: key.position, content })?.into_map_key()
    }

    /// One value: of a singular field, of a list, or of a map entry.
    fn single(&mut self, field: &FieldDescriptor, node: &Node) -> Option<Value> {
        if let Kind::Message(descriptor) = field.kind() {
            return self.message(&descriptor, node).map(Value::Message);
        }
        if matches!(node.content, Content::List(_) | Content::Map(_)) {
            return self.refuse_shape(node, "a single value");
        }
        if matches!(node.content, Content::Null) && !takes_null(field) {
            return self.refuse_shape(node, "a value");
        }
        let value = node.to_value();
        let value = if field.is_list() { serde_json::Value::Array(vec![value]) } else { value };
        let mut object = serde_json::Map::new();
        object.insert(field.name().to_owned(), value);
        let holder = self.delegate(field.parent_message(), node, serde_json::Value::Object(object))?;
        match holder.get_field(field).into_owned() {
            Value::List(mut items) => items.pop(),
            value => Some(value),
        }
    }

    fn any(&mut self, descriptor: &MessageDescriptor, node: &Node) -> Option<DynamicMessage> {
        let Content::Map(entries) = &node.content else { return self.refuse_shape(node, "a map") };
        let Some((_, named)) = entries.iter().find(|(key, _)| key.name == TYPE_KEY) else {
            return self.refuse(node.position, Reason::NoType);
        };
        let Content::Text(url) = &named.content else { return self.refuse(named.position, Reason::NoType) };
        let Some(inner) = url.strip_prefix(TYPE_PREFIX).and_then(|name| POOL.get_message_by_name(name))
        else {
            let reason = Reason::UnknownType(shortened(url));
            return self.refuse_key(TYPE_KEY, named.position, reason);
        };
        let mut rest = entries.iter().filter(|(key, _)| key.name != TYPE_KEY);
        let message = if is_well_known(&inner) || inner.full_name() == descriptor.full_name() {
            match (rest.next(), rest.next()) {
                (Some((key, value)), None) if key.name == "value" => {
                    self.below("value", "value", value.position, |walk| walk.message(&inner, value))?
                }
                _ => return self.refuse_shape(node, "\"@type\" and \"value\", and nothing else"),
            }
        } else {
            self.fields(&inner, rest)?
        };
        let mut any = DynamicMessage::new(descriptor.clone());
        any.set_field_by_name("type_url", Value::String(url.clone()));
        any.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
        Some(any)
    }

    fn delegate(
        &mut self,
        descriptor: &MessageDescriptor,
        node: &Node,
        value: serde_json::Value,
    ) -> Option<DynamicMessage> {
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        match DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options) {
            Ok(message) => Some(message),
            Err(_) if self.secret => {
                self.refuse(node.position, Reason::Value("not a value of this field".into()))
            }
            Err(error) => self.refuse(node.position, Reason::Value(shortened(&error.to_string()))),
        }
    }
}

/// Why a field cannot be given beside those already given.
fn clash(given: &[FieldDescriptor], field: &FieldDescriptor) -> Option<Reason> {
    let name = field.name().to_owned();
    if given.contains(field) {
        return Some(Reason::Twice { name });
    }
    let oneof = field.containing_oneof()?;
    let other = given.iter().find(|other| other.containing_oneof().as_ref() == Some(&oneof))?;
    Some(Reason::Exclusive { name, other: other.name().to_owned() })
}

/// Types whose JSON form is not their fields.
fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    let Some(name) = descriptor.full_name().strip_prefix("google.protobuf.") else { return false };
    name.ends_with("Value") || matches!(name, "Timestamp" | "Duration" | "FieldMask" | "Struct" | "Empty")
}

fn takes_null(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value",
        Kind::Enum(kind) => kind.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

/// The field whose name differs in the fewest letters, if they are few.
fn nearest(descriptor: &MessageDescriptor, name: &str) -> Option<String> {
    if name.len() > 64 {
        return None;
    }
    let ranked = descriptor.fields().flat_map(|field| {
        [field.name(), field.json_name()].map(|candidate| (distance(name, candidate), candidate.to_owned()))
    });
    ranked.min().filter(|(steps, _)| *steps <= 1 + name.len() / 4).map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
