//! What to check of each message type: the rules of the descriptors, read once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor, Value,
};

use super::check::{Broken, Check};
use crate::POOL;
use crate::generated::validate::{AnyRules, FieldRules, field_rules::Type};
use crate::sensitive::is_sensitive;

/// What to check of a message.
pub(super) struct MessagePlan {
    pub(super) fields: Vec<FieldPlan>,
    pub(super) required_oneofs: Vec<OneofDescriptor>,
}

/// What to check of a field.
pub(super) struct FieldPlan {
    pub(super) field: FieldDescriptor,
    pub(super) shape: Shape,
    /// For a singular field, or whether the field as a whole is required.
    pub(super) value: ValuePlan,
    pub(super) in_oneof: bool,
    pub(super) secret: bool,
    /// An unset field breaks nothing: needs no look.
    pub(super) is_free_when_empty: bool,
}

/// How many values a field has.
pub(super) enum Shape {
    Single,
    List { items: ValuePlan, bounds: Bounds },
    Map { keys: ValuePlan, values: ValuePlan, bounds: Bounds },
}

/// What to check of one value.
#[derive(Default)]
pub(super) struct ValuePlan {
    pub(super) required: bool,
    pub(super) skip: bool,
    pub(super) check: Option<Box<Check>>,
    pub(super) any: Option<AnyRules>,
}

/// How many items a list or map may have.
#[derive(Default)]
pub(super) struct Bounds {
    min: Option<u64>,
    max: Option<u64>,
    unique: bool,
    ignore_empty: bool,
}

struct Extensions {
    rules: ExtensionDescriptor,
    required: ExtensionDescriptor,
    disabled: ExtensionDescriptor,
    ignored: ExtensionDescriptor,
}

static EXTENSIONS: LazyLock<Option<Extensions>> = LazyLock::new(|| {
    Some(Extensions {
        rules: POOL.get_extension_by_name("validate.rules")?,
        required: POOL.get_extension_by_name("validate.required")?,
        disabled: POOL.get_extension_by_name("validate.disabled")?,
        ignored: POOL.get_extension_by_name("validate.ignored")?,
    })
});

type Plans = RwLock<HashMap<String, Option<Arc<MessagePlan>>>>;

static PLANS: LazyLock<Plans> = LazyLock::new(RwLock::default);

/// The plan of a message type; `None` if its rules are switched off.
pub(super) fn of(message: &MessageDescriptor) -> Option<Arc<MessagePlan>> {
    if let Some(plan) = PLANS.read().unwrap_or_else(PoisonError::into_inner).get(message.full_name()) {
        return plan.clone();
    }
    let plan = read(message).map(Arc::new);
    let mut plans = PLANS.write().unwrap_or_else(PoisonError::into_inner);
    plans.entry(message.full_name().to_owned()).or_insert(plan).clone()
}

fn read(message: &MessageDescriptor) -> Option<MessagePlan> {
    let extensions = EXTENSIONS.as_ref()?;
    let options = message.options();
    if is_on(&options, &extensions.disabled) || is_on(&options, &extensions.ignored) {
        return None;
    }
    let fields = message.fields().map(|field| FieldPlan::read(field, extensions)).collect();
    let required_oneofs =
        message.oneofs().filter(|oneof| is_on(&oneof.options(), &extensions.required)).collect();
    Some(MessagePlan { fields, required_oneofs })
}

fn is_on(options: &DynamicMessage, extension: &ExtensionDescriptor) -> bool {
    options.has_extension(extension) && *options.get_extension(extension) == Value::Bool(true)
}

impl FieldPlan {
    fn read(field: FieldDescriptor, extensions: &Extensions) -> Self {
        let options = field.options();
        let rules = options.has_extension(&extensions.rules).then(|| {
            let value = options.get_extension(&extensions.rules);
            value.as_message().and_then(|rules| rules.transcode_to::<FieldRules>().ok()).unwrap_or_default()
        });
        let rules = rules.unwrap_or_default();
        let is_free_when_empty = rules.r#type.is_none() && rules.message.is_none();
        let shape = Shape::read(&field, &rules);
        Self {
            shape,
            value: ValuePlan::read(&rules, &field.kind()),
            in_oneof: field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()),
            secret: is_sensitive(&field),
            is_free_when_empty,
            field,
        }
    }
}

impl Shape {
    pub(super) fn read(field: &FieldDescriptor, rules: &FieldRules) -> Self {
        let skip = rules.message.as_ref().is_some_and(|message| message.skip());
        let inner = |rules: Option<&FieldRules>, kind: &Kind| {
            let mut plan = rules.map(|rules| ValuePlan::read(rules, kind)).unwrap_or_default();
            plan.skip |= skip;
            plan
        };
        let kind = field.kind();
        if let Some(entry) = kind.as_message().filter(|_| field.is_map()) {
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let Some(Type::Map(map)) = &rules.r#type else {
                return Self::Map {
                    keys: inner(None, &key),
                    values: inner(None, &value),
                    bounds: Bounds::default(),
                };
            };
            // `no_sparse` asks that values are not null, which only a language can make them: on the wire a
            // missing value is an empty one.
            let bounds = Bounds {
                min: map.min_pairs,
                max: map.max_pairs,
                unique: false,
                ignore_empty: map.ignore_empty(),
            };
            Self::Map {
                keys: inner(map.keys.as_deref(), &key),
                values: inner(map.values.as_deref(), &value),
                bounds,
            }
        } else if field.is_list() {
            let Some(Type::Repeated(list)) = &rules.r#type else {
                return Self::List { items: inner(None, &kind), bounds: Bounds::default() };
            };
            let bounds = Bounds {
                min: list.min_items,
                max: list.max_items,
                unique: list.unique(),
                ignore_empty: list.ignore_empty(),
            };
            Self::List { items: inner(list.items.as_deref(), &kind), bounds }
        } else {
            Self::Single
        }
    }
}

impl ValuePlan {
    /// Reads what applies to one value.
    pub(super) fn read(rules: &FieldRules, kind: &Kind) -> Self {
        let message = rules.message.unwrap_or_default();
        let (required, any) = match &rules.r#type {
            Some(Type::Any(any)) => (any.required(), Some(any.clone())),
            Some(Type::Duration(duration)) => (duration.required(), None),
            Some(Type::Timestamp(timestamp)) => (timestamp.required(), None),
            _ => (false, None),
        };
        Self {
            required: required || message.required(),
            skip: message.skip(),
            check: rules.r#type.as_ref().and_then(|rules| Check::read(rules, kind)).map(Box::new),
            any,
        }
    }

    /// What the type of an `Any` breaks.
    pub(super) fn any(&self, url: &str) -> Vec<Broken> {
        let mut broken = Vec::new();
        let Some(rules) = &self.any else { return broken };
        if !rules.r#in.is_empty() && !rules.r#in.iter().any(|allowed| allowed == url) {
            broken.push(Broken::new("any.in", format!("must be of type {}", rules.r#in.join(" or "))));
        }
        if rules.not_in.iter().any(|refused| refused == url) {
            broken.push(Broken::new(
                "any.not_in",
                format!("must not be of type {}", rules.not_in.join(" or ")),
            ));
        }
        broken
    }
}

impl Bounds {
    /// What a list as a whole breaks.
    pub(super) fn list(&self, list: &[Value]) -> Vec<Broken> {
        let mut broken = self.count(list.len(), ["repeated.min_items", "repeated.max_items"], "items");
        if self.unique {
            let mut seen = HashSet::new();
            let is_repeated = |value: &Value| identity(value).is_some_and(|identity| !seen.insert(identity));
            if list.iter().any(is_repeated) {
                broken.push(Broken::new("repeated.unique", "must not have an item twice".to_owned()));
            }
        }
        broken
    }

    /// What a map as a whole breaks.
    pub(super) fn pairs(&self, count: usize) -> Vec<Broken> {
        self.count(count, ["map.min_pairs", "map.max_pairs"], "pairs")
    }

    fn count(&self, count: usize, [min_rule, max_rule]: [&'static str; 2], what: &str) -> Vec<Broken> {
        let mut broken = Vec::new();
        if self.ignore_empty && count == 0 {
            return broken;
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        if let Some(min) = self.min.filter(|min| count < *min) {
            broken.push(Broken::new(min_rule, format!("must have at least {min} {what}")));
        }
        if let Some(max) = self.max.filter(|max| count > *max) {
            broken.push(Broken::new(max_rule, format!("must have at most {max} {what}")));
        }
        broken
    }
}

/// Bytes that two values of one type share only if they are equal; the rule is not for messages.
fn identity(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Bool(value) => vec![u8::from(*value)],
        Value::I32(value) | Value::EnumNumber(value) => value.to_le_bytes().to_vec(),
        Value::I64(value) => value.to_le_bytes().to_vec(),
        Value::U32(value) => value.to_le_bytes().to_vec(),
        Value::U64(value) => value.to_le_bytes().to_vec(),
        Value::F32(value) => value.to_le_bytes().to_vec(),
        Value::F64(value) => value.to_le_bytes().to_vec(),
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Bytes(bytes) => bytes.to_vec(),
        Value::Message(_) | Value::List(_) | Value::Map(_) => return None,
    })
}
