//! Trees to values: every field type reads itself, reports all that is wrong with it, and says what it is for the
//! JSON Schema. [`object!`] and [`words!`] make the types of the vocabulary from one declaration each.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    FieldPath, Problem,
    node::{Content, Node, Place, Scalar, is_not_text, shorten},
    path::Step,
};

/// The most items of one list.
const MAX_ITEMS: usize = 20_000;

/// A type that a document can hold.
pub(crate) trait Field: Sized {
    /// Reads the value, or reports why not.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self>;

    /// What it is when nothing is written; `None` makes the field required.
    fn absent() -> Option<Self> {
        None
    }

    /// Its JSON Schema.
    fn schema() -> Value;
}

/// Collects problems on the way down.
pub(crate) struct Reader<'a> {
    pub(crate) file: &'a Arc<str>,
    path: Vec<Step>,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a Arc<str>) -> Self {
        Self { file, path: Vec::new(), problems: Vec::new() }
    }

    pub(crate) fn below<T>(&mut self, step: Step, act: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let result = act(self);
        self.path.pop();
        result
    }

    /// Reports a problem with the value at the present path.
    pub(crate) fn refuse<T>(
        &mut self,
        node: &Node,
        rule: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.problem(node.place, node.preview(), rule, message.into(), hint.into());
        None
    }

    /// Reports that another sort of value was expected.
    pub(crate) fn expected<T>(&mut self, node: &Node, what: &str) -> Option<T> {
        let hint = match (&node.content, node.scalar()) {
            (Content::Scalar { text, plain: true }, Some(found)) if what.contains("text") => match found {
                Scalar::Null => String::new(),
                _ => format!("write {text:?}, with quotes"),
            },
            (Content::Scalar { text, plain: false }, _) if is_not_text(text) => {
                format!("write {text} without quotes, if it is one")
            }
            _ => String::new(),
        };
        self.refuse(node, "type", format!("expected {what}, found {}", node.describe()), hint)
    }

    fn problem(&mut self, place: Place, value: String, rule: &str, message: String, hint: String) {
        let path = self.path.iter().fold(FieldPath::default(), |path, step| match step {
            Step::Key(key) => path.key(key.clone()),
            Step::Index(index) => path.index(*index),
        });
        self.problems.push(Problem {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            path: path.to_string(),
            value,
            rule: rule.to_owned(),
            message,
            hint,
        });
    }

    /// The fields of a mapping that knows `keys`; unknown ones are reported.
    pub(crate) fn object<'n>(&mut self, node: &'n Node, keys: &[&str]) -> Option<Fields<'n>> {
        let Content::Map(fields) = &node.content else {
            let what =
                if keys.is_empty() { "{}".to_owned() } else { format!("a mapping with {}", list(keys)) };
            return self.expected(node, &what);
        };
        for (key, place, value) in fields {
            if !keys.contains(&key.as_str()) {
                let hint = match nearest(key, keys) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None if keys.is_empty() => "there is nothing to configure here, write {}".to_owned(),
                    None => format!("known fields here: {}", list(keys)),
                };
                let message = format!("unknown field {key:?}");
                self.below(Step::Key(key.clone().into()), |reader| {
                    reader.problem(*place, value.preview(), "unknown-field", message, hint);
                });
            }
        }
        Some(Fields { node, fields })
    }
}

/// The fields of one mapping, to be taken by key.
pub(crate) struct Fields<'n> {
    node: &'n Node,
    fields: &'n [(String, Place, Node)],
}

impl Fields<'_> {
    pub(crate) fn find(&self, key: &str) -> Option<&Node> {
        self.fields.iter().find(|(name, ..)| name == key).map(|(.., value)| value)
    }

    pub(crate) fn take<T: Field>(&self, key: &'static str, reader: &mut Reader<'_>) -> Option<T> {
        match (self.find(key), T::absent()) {
            (Some(value), Some(absent)) if value.is_null() => Some(absent),
            (Some(value), _) => reader.below(Step::Key(key.into()), |reader| T::read(value, reader)),
            (None, Some(absent)) => Some(absent),
            (None, None) => {
                let message = format!("field {key:?} is missing");
                reader.below(Step::Key(key.into()), |reader| {
                    reader.problem(
                        self.node.place,
                        String::new(),
                        "required",
                        message,
                        format!("add {key:?} here"),
                    );
                });
                None
            }
        }
    }
}

pub(crate) fn list(words: &[&str]) -> String {
    words.join(", ")
}

/// The known word that `word` was probably meant to be.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let fold = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    let wanted = fold(word);
    let limit = 1 + wanted.chars().count() / 4;
    known
        .iter()
        .map(|candidate| (distance(&wanted, &fold(candidate)), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of edits between two words (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, left) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (index, right) in to.iter().enumerate() {
            let edit = diagonal + usize::from(left != *right);
            diagonal = row[index + 1];
            row[index + 1] = edit.min(row[index] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

impl<T: Field> Field for Option<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        T::read(node, reader).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl<T: Field> Field for Vec<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Content::List(items) = &node.content else {
            return match node.scalar() {
                Some(Scalar::Text(text)) if T::schema()["type"] == "string" => {
                    let message = format!("expected a list, found {}", node.describe());
                    reader.refuse(node, "type", message, format!("write a list: [{:?}]", shorten(text)))
                }
                _ => reader.expected(node, "a list"),
            };
        };
        if items.len() > MAX_ITEMS {
            let message = format!("list has {} items, at most {MAX_ITEMS} are allowed", items.len());
            return reader.refuse(node, "limit.items", message, "");
        }
        // Read all of them, so that all problems are reported, before one that failed drops the list.
        let read = items.iter().enumerate();
        let read: Vec<_> =
            read.map(|(i, item)| reader.below(Step::Index(i), |reader| T::read(item, reader))).collect();
        read.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl Field for BTreeMap<String, String> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Content::Map(fields) = &node.content else { return reader.expected(node, "a mapping of texts") };
        let read: Vec<_> = fields
            .iter()
            .map(|(key, _, value)| {
                let value = reader.below(Step::Key(key.clone().into()), |reader| String::read(value, reader));
                value.map(|value| (key.clone(), value))
            })
            .collect();
        read.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

/// Declares a mapping of the vocabulary: a struct whose fields are named by the keys that operators write.
macro_rules! object {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $field:ident : $kind:ty = $key:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $( $(#[doc = $doc])+ pub $field: $kind, )*
        }

        impl $crate::model::decode::Field for $name {
            fn read(
                node: &$crate::model::node::Node,
                reader: &mut $crate::model::decode::Reader<'_>,
            ) -> Option<Self> {
                let fields = reader.object(node, &[$($key),*])?;
                $( let $field = fields.take::<$kind>($key, reader); )*
                Some(Self { $( $field: $field?, )* })
            }

            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                let mut required: Vec<&str> = Vec::new();
                $(
                    let described = $crate::model::decode::described::<$kind>(concat!($($doc),+));
                    properties.insert($key.to_owned(), described);
                    if <$kind as $crate::model::decode::Field>::absent().is_none() {
                        required.push($key);
                    }
                )*
                serde_json::json!({
                    "type": "object",
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                })
            }
        }
    };
}

/// Declares an enum of the vocabulary by its words.
macro_rules! words {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$doc:meta])+ $variant:ident = $word:literal, )* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$doc])+ $variant, )* }

        impl $name {
            /// The word that documents use.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl $crate::model::decode::Field for $name {
            fn read(
                node: &$crate::model::node::Node,
                reader: &mut $crate::model::decode::Reader<'_>,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),*];
                match $crate::model::scalar::word(node, WORDS, reader)? {
                    $( $word => Some(Self::$variant), )*
                    _ => None,
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word),*]})
            }
        }
    };
}

pub(crate) use {object, words};

/// The schema of a field with its description.
pub(crate) fn described<T: Field>(description: &str) -> Value {
    let mut schema = T::schema();
    if let Value::Object(fields) = &mut schema {
        fields.insert("description".to_owned(), Value::String(description.trim().to_owned()));
    }
    schema
}
