//! A document as a tree that knows where each part stands.

use serde_json::{Number, Value};

use super::{MAX_DEPTH, Position, Problem, Reason};

/// A value with its place.
#[derive(Clone)]
pub struct Node {
    /// Where it begins, if the input had positions.
    pub position: Option<Position>,
    /// What stands there.
    pub content: Content,
}

/// A value.
#[derive(Clone)]
pub enum Content {
    /// Nothing, or `null`.
    Null,
    /// True or false.
    Bool(bool),
    /// Any number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the text; no key stands twice.
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Clone)]
pub struct Key {
    /// Where it begins, if the input had positions.
    pub position: Option<Position>,
    /// The key.
    pub name: String,
}

impl Node {
    /// The value without its places.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::Text(value) => Value::String(value.clone()),
            Content::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Content::Map(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.name.clone(), value.to_value())).collect(),
            ),
        }
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Bool(_) => "true or false",
            Content::Number(_) => "a number",
            Content::Text(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }
}

/// Takes a value that has no places.
pub(super) fn from_value(value: &Value) -> Result<Node, Problem> {
    copy(value, MAX_DEPTH).ok_or(Problem { path: String::new(), position: None, reason: Reason::TooDeep })
}

fn copy(value: &Value, room: usize) -> Option<Node> {
    let below = room.checked_sub(1)?;
    let content = match value {
        Value::Null => Content::Null,
        Value::Bool(value) => Content::Bool(*value),
        Value::Number(value) => Content::Number(value.clone()),
        Value::String(value) => Content::Text(value.clone()),
        Value::Array(items) => {
            Content::List(items.iter().map(|item| copy(item, below)).collect::<Option<_>>()?)
        }
        Value::Object(entries) => Content::Map(
            entries
                .iter()
                .map(|(name, value)| Some((Key { position: None, name: name.clone() }, copy(value, below)?)))
                .collect::<Option<_>>()?,
        ),
    };
    Some(Node { position: None, content })
}
