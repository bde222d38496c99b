//! Envoy's own validation rules (`validate.rules` of protoc-gen-validate), read from the descriptors and applied
//! to any message, so that Envoy does not get what it would refuse.
//!
//! All violations are reported, with paths of proto field names (`filter_chains[0].filters[1].typed_config.
//! stat_prefix`): list items as `[index]`, map values as `[key]`, and an `Any` is walked through under the name of
//! its field. Rules are read once per message type and kept.

use std::fmt;

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use prost_types::Any;

use crate::POOL;
use crate::path::{push, shortened};

mod check;
mod formats;
mod plan;
mod strings;

#[cfg(test)]
mod tests;

use check::Broken;
use plan::{FieldPlan, Shape, ValuePlan};

/// The deepest nesting of messages that is walked; what is below is reported, not passed.
pub const MAX_DEPTH: usize = 64;
/// The most violations that one call reports.
pub const MAX_VIOLATIONS: usize = 1000;

/// One rule that a message breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, by proto field names; empty for the message itself.
    pub path: String,
    /// The rule, as `string.min_len`.
    pub rule: &'static str,
    /// What the rule wants, as "must have at least 1 character".
    pub message: String,
    /// What is there, shortened; never a secret's content.
    pub value: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        if !self.value.is_empty() {
            write!(f, ", found {}", self.value)?;
        }
        write!(f, " ({})", self.rule)
    }
}

/// Every rule that the message breaks, or what is inside it.
pub fn validate(message: &DynamicMessage) -> Vec<Violation> {
    let mut walk = Walk::default();
    walk.message(message);
    walk.violations
}

/// The same for a packed message.
pub fn validate_any(any: &Any) -> Vec<Violation> {
    let mut walk = Walk::default();
    walk.packed(&any.type_url, &any.value);
    walk.violations
}

/// The same for a generated type.
pub fn validate_typed<M: Message + Name>(message: &M) -> Vec<Violation> {
    let mut walk = Walk::default();
    walk.packed(&M::type_url(), &message.encode_to_vec());
    walk.violations
}

#[derive(Default)]
struct Walk {
    path: String,
    depth: usize,
    /// Inside a field that holds secrets.
    secret: bool,
    violations: Vec<Violation>,
}

impl Walk {
    fn report(&mut self, broken: Broken, value: String) {
        if self.violations.len() < MAX_VIOLATIONS {
            let Broken { rule, message } = broken;
            self.violations.push(Violation { path: self.path.clone(), rule, message, value });
        }
    }

    fn below(&mut self, step: &str, act: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        push(&mut self.path, step);
        act(self);
        self.path.truncate(length);
    }

    fn message(&mut self, message: &DynamicMessage) {
        if self.depth == MAX_DEPTH {
            let text = format!("must not be nested deeper than {MAX_DEPTH} messages");
            return self.report(Broken::new("depth", text), String::new());
        }
        self.depth += 1;
        if message.descriptor().full_name() == "google.protobuf.Any" {
            let (url, bytes) = parts(message);
            self.packed(&url, &bytes);
        } else {
            self.fields(message);
        }
        self.depth -= 1;
    }

    fn packed(&mut self, url: &str, bytes: &[u8]) {
        let Some(descriptor) = url.rsplit_once('/').and_then(|(_, name)| POOL.get_message_by_name(name))
        else {
            let broken = Broken::new("any.type", "must be of a type that this version knows".to_owned());
            return self.report(broken, check::quoted(url));
        };
        match DynamicMessage::decode(descriptor, bytes) {
            Ok(inner) => self.message(&inner),
            Err(_) => {
                let broken = Broken::new("any.value", format!("must be bytes of {url}"));
                self.report(broken, format!("{} bytes", bytes.len()));
            }
        }
    }

    fn fields(&mut self, message: &DynamicMessage) {
        let Some(plan) = plan::of(&message.descriptor()) else { return };
        for field in &plan.fields {
            let secret_above = self.secret;
            self.secret |= field.secret;
            self.below(field.field.name(), |walk| walk.field(message, field));
            self.secret = secret_above;
        }
        for oneof in &plan.required_oneofs {
            if !oneof.fields().any(|field| message.has_field(&field)) {
                let names: Vec<_> = oneof.fields().map(|field| field.name().to_owned()).collect();
                let text = format!("must have one of {}", names.join(", "));
                self.below(oneof.name(), |walk| {
                    walk.report(Broken::new("oneof.required", text), String::new())
                });
            }
        }
    }

    fn field(&mut self, message: &DynamicMessage, plan: &FieldPlan) {
        let is_set = message.has_field(&plan.field);
        if !is_set && plan.field.supports_presence() {
            if plan.value.required && !plan.in_oneof {
                self.report(Broken::new("message.required", "must be given".to_owned()), String::new());
            }
            return;
        }
        if !is_set && plan.is_free_when_empty {
            return;
        }
        let value = message.get_field(&plan.field);
        match (&plan.shape, value.as_ref()) {
            (Shape::List { items, bounds }, Value::List(list)) => {
                for broken in bounds.list(list) {
                    self.report(broken, format!("{} items", list.len()));
                }
                for (index, item) in list.iter().enumerate() {
                    self.below(&format!("[{index}]"), |walk| walk.value(item, items));
                }
            }
            (Shape::Map { keys, values, bounds }, Value::Map(map)) => {
                for broken in bounds.pairs(map.len()) {
                    self.report(broken, format!("{} pairs", map.len()));
                }
                let mut entries: Vec<_> = map
                    .iter()
                    .map(|(key, value)| (check::key_text(key), Value::from(key.clone()), value))
                    .collect();
                entries.sort_by(|left, right| left.0.cmp(&right.0));
                for (name, key, value) in entries {
                    self.below(&format!("[{}]", shortened(&name)), |walk| {
                        walk.value(&key, keys);
                        walk.value(value, values);
                    });
                }
            }
            (_, value) => self.value(value, &plan.value),
        }
    }

    fn value(&mut self, value: &Value, plan: &ValuePlan) {
        if plan.skip || self.violations.len() >= MAX_VIOLATIONS {
            return;
        }
        if let Value::Message(message) = value {
            if plan.any.is_some() && message.descriptor().full_name() == "google.protobuf.Any" {
                let (url, _) = parts(message);
                for broken in plan.any(&url) {
                    self.report(broken, check::quoted(&url));
                }
            }
            if let Some(inner) = check::unwrapped(message) {
                self.scalar(&inner, plan);
            } else {
                self.message(message);
            }
        } else {
            self.scalar(value, plan);
        }
    }

    fn scalar(&mut self, value: &Value, plan: &ValuePlan) {
        let Some(check) = &plan.check else { return };
        for broken in check.broken(value) {
            let shown = if self.secret { "[redacted]".to_owned() } else { check::shown(value) };
            self.report(broken, shown);
        }
    }
}

fn parts(any: &DynamicMessage) -> (String, Vec<u8>) {
    let url = any.get_field_by_number(1).and_then(|value| value.as_str().map(ToOwned::to_owned));
    let bytes = any.get_field_by_number(2).and_then(|value| value.as_bytes().map(|bytes| bytes.to_vec()));
    (url.unwrap_or_default(), bytes.unwrap_or_default())
}
