//! A document as it was written: values with the place of each.

use std::{fmt, sync::Arc};

use serde_json::{Map, Number, Value};

use super::{FieldPath, Problem, path::Step};

/// A place in a text: line and column from 1, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

/// One value and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// `plain` tells `8080` from `"8080"`.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// Keys are unique; the order is that of the text.
    Map(Vec<(String, Place, Node)>),
}

/// What a scalar means (YAML 1.2, core schema: `yes`, `on` and `off` are text).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

impl Node {
    pub(crate) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.content {
            Content::Scalar { text, plain: true } => Some(resolve(text)),
            Content::Scalar { text, plain: false } => Some(Scalar::Text(text)),
            Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The same value at another place: problems of what an alias repeats are told where it stands.
    pub(crate) fn moved_to(&self, place: Place) -> Self {
        let content = match &self.content {
            Content::Scalar { .. } => self.content.clone(),
            Content::List(items) => Content::List(items.iter().map(|item| item.moved_to(place)).collect()),
            Content::Map(fields) => {
                let moved = fields.iter().map(|(key, _, value)| (key.clone(), place, value.moved_to(place)));
                Content::Map(moved.collect())
            }
        };
        Self { place, content }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// What a message calls it.
    pub(crate) fn describe(&self) -> String {
        match (&self.content, self.scalar()) {
            (_, Some(Scalar::Null)) => "nothing".to_owned(),
            (_, Some(Scalar::Bool(value))) => format!("the truth value {value}"),
            (_, Some(Scalar::Int(value))) => format!("the number {value}"),
            (Content::Scalar { text, .. }, Some(Scalar::Float(_))) => format!("the number {text}"),
            (_, Some(Scalar::Text(text))) => format!("the text {:?}", shorten(text)),
            (Content::List(_), _) => "a list".to_owned(),
            _ => "a mapping".to_owned(),
        }
    }

    /// The value in one short line.
    pub(crate) fn preview(&self) -> String {
        match &self.content {
            Content::Scalar { text, .. } => shorten(text),
            Content::List(items) => format!("[{} items]", items.len()),
            Content::Map(fields) => format!("{{{} fields}}", fields.len()),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.content {
            Content::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Content::Map(fields) => {
                let fields = fields.iter().map(|(key, _, value)| (key.clone(), value.to_json()));
                Value::Object(Map::from_iter(fields))
            }
            Content::Scalar { text, .. } => match self.scalar().unwrap_or(Scalar::Null) {
                Scalar::Null => Value::Null,
                Scalar::Bool(value) => Value::Bool(value),
                Scalar::Int(value) => Value::Number(value.into()),
                Scalar::Float(value) => {
                    Number::from_f64(value).map_or_else(|| Value::String(text.clone()), Value::Number)
                }
                Scalar::Text(text) => Value::String(text.to_owned()),
            },
        }
    }
}

fn resolve(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Scalar::Int(number);
    }
    let begins_as_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    match text.parse::<f64>() {
        Ok(number) if begins_as_number && number.is_finite() => Scalar::Float(number),
        _ => Scalar::Text(text),
    }
}

/// Whether a word means something else than a text where it has no quotes.
pub(crate) fn is_not_text(word: &str) -> bool {
    !matches!(resolve(word), Scalar::Text(_))
}

pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

/// The text that a document was read from, kept so that any later problem finds its line.
pub struct Source {
    file: Arc<str>,
    root: Node,
}

impl Source {
    pub(crate) fn new(file: Arc<str>, root: Node) -> Self {
        Self { file, root }
    }

    /// The file, or whatever the text came from.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// The document as JSON, in the words and the order of its author.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.root.to_json()
    }

    /// Where `path`, or its nearest ancestor that was written, begins.
    #[must_use]
    pub fn place(&self, path: &FieldPath) -> Place {
        self.find(path).0
    }

    /// Whether exactly `path` was written.
    #[must_use]
    pub fn has(&self, path: &FieldPath) -> bool {
        self.find(path).1.is_some()
    }

    /// The place, and the value if exactly that path was written.
    fn find(&self, path: &FieldPath) -> (Place, Option<&Node>) {
        let mut node = &self.root;
        for step in path.steps() {
            let below = match (&node.content, step) {
                (Content::List(items), Step::Index(index)) => items.get(*index),
                (Content::Map(fields), Step::Key(key)) => {
                    fields.iter().find(|(name, ..)| name == key).map(|(_, _, value)| value)
                }
                _ => None,
            };
            match below {
                Some(below) => node = below,
                None => return (node.place, None),
            }
        }
        (node.place, Some(node))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.root.place.line)
    }
}

/// A field of a document that rules talk about.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    pub(crate) source: &'a Source,
    pub(crate) path: FieldPath,
}

impl<'a> At<'a> {
    pub(crate) fn new(source: &'a Source, path: FieldPath) -> Self {
        Self { source, path }
    }

    pub(crate) fn spec(source: &'a Source) -> Self {
        Self::new(source, FieldPath::default().key("spec"))
    }

    pub(crate) fn key(&self, key: &'static str) -> Self {
        Self::new(self.source, self.path.key(key))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        Self::new(self.source, self.path.index(index))
    }

    /// A problem with this field.
    pub(crate) fn problem(&self, rule: &str, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        let (place, node) = self.source.find(&self.path);
        Problem {
            file: self.source.file.clone(),
            line: place.line,
            column: place.column,
            path: self.path.to_string(),
            value: node.map(Node::preview).unwrap_or_default(),
            rule: rule.to_owned(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// `file:line:column`, for messages about another field.
    pub(crate) fn cite(&self) -> String {
        let place = self.source.place(&self.path);
        format!("{}:{}:{}", self.source.file, place.line, place.column)
    }
}
