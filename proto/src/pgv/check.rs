//! One value against its rules.

use std::fmt::Display;

use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MapKey, ReflectMessage, Value};

use super::strings::{BytesCheck, TextCheck};
use crate::generated::validate::{EnumRules, field_rules::Type};

/// A rule that a value breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) rule: &'static str,
    pub(super) message: String,
}

impl Broken {
    pub(super) fn new(rule: &'static str, message: String) -> Self {
        Self { rule, message }
    }
}

/// Rules for one value that is not a message of fields.
pub(super) enum Check {
    Integer(Range<i128>),
    Real(Range<f64>),
    Bool(bool),
    Enum(EnumRules, Option<EnumDescriptor>),
    Text(Box<TextCheck>),
    Bytes(Box<BytesCheck>),
    /// In nanoseconds: durations and timestamps.
    Time(Range<i128>),
}

/// Rules over an ordered type.
pub(super) struct Range<T> {
    names: RangeNames,
    equal: Option<T>,
    lt: Option<T>,
    lte: Option<T>,
    gt: Option<T>,
    gte: Option<T>,
    within: Vec<T>,
    without: Vec<T>,
    ignore_empty: bool,
}

struct RangeNames {
    equal: &'static str,
    lt: &'static str,
    lte: &'static str,
    gt: &'static str,
    gte: &'static str,
    within: &'static str,
    without: &'static str,
}

macro_rules! names {
    ($kind:literal) => {
        RangeNames {
            equal: concat!($kind, ".const"),
            lt: concat!($kind, ".lt"),
            lte: concat!($kind, ".lte"),
            gt: concat!($kind, ".gt"),
            gte: concat!($kind, ".gte"),
            within: concat!($kind, ".in"),
            without: concat!($kind, ".not_in"),
        }
    };
}

/// A range of the rules of one kind; `$to` turns a bound into the range's type.
macro_rules! range {
    ($kind:literal, $rules:expr, $to:expr, $ignore_empty:expr) => {{
        let (rules, to) = ($rules, $to);
        Range {
            names: names!($kind),
            equal: rules.r#const.map(to),
            lt: rules.lt.map(to),
            lte: rules.lte.map(to),
            gt: rules.gt.map(to),
            gte: rules.gte.map(to),
            within: rules.r#in.iter().copied().map(to).collect(),
            without: rules.not_in.iter().copied().map(to).collect(),
            ignore_empty: $ignore_empty,
        }
    }};
}

macro_rules! integer {
    ($kind:literal, $rules:expr) => {
        Some(Check::Integer(range!($kind, $rules, i128::from, $rules.ignore_empty())))
    };
}

impl Check {
    /// The check of a rule; `None` for rules of lists, maps and `Any`, which are kept elsewhere.
    pub(super) fn read(rules: &Type, kind: &Kind) -> Option<Self> {
        match rules {
            Type::Float(rules) => Some(Self::Real(range!("float", rules, f64::from, rules.ignore_empty()))),
            Type::Double(rules) => Some(Self::Real(range!("double", rules, f64::from, rules.ignore_empty()))),
            Type::Int32(rules) => integer!("int32", rules),
            Type::Int64(rules) => integer!("int64", rules),
            Type::Uint32(rules) => integer!("uint32", rules),
            Type::Uint64(rules) => integer!("uint64", rules),
            Type::Sint32(rules) => integer!("sint32", rules),
            Type::Sint64(rules) => integer!("sint64", rules),
            Type::Fixed32(rules) => integer!("fixed32", rules),
            Type::Fixed64(rules) => integer!("fixed64", rules),
            Type::Sfixed32(rules) => integer!("sfixed32", rules),
            Type::Sfixed64(rules) => integer!("sfixed64", rules),
            Type::Bool(rules) => rules.r#const.map(Self::Bool),
            Type::String(rules) => Some(Self::Text(Box::new(TextCheck::read(rules.clone())))),
            Type::Bytes(rules) => Some(Self::Bytes(Box::new(BytesCheck::read(rules.clone())))),
            Type::Enum(rules) => Some(Self::Enum(rules.clone(), kind.as_enum().cloned())),
            Type::Duration(rules) => {
                let nanos = |duration: prost_types::Duration| nanos(duration.seconds, duration.nanos);
                Some(Self::Time(range!("duration", rules, nanos, false)))
            }
            Type::Timestamp(rules) => {
                let nanos = |time: prost_types::Timestamp| nanos(time.seconds, time.nanos);
                // `lt_now`, `gt_now` and `within` need a clock. Envoy's API uses none of them; a test says so.
                Some(Self::Time(Range {
                    names: names!("timestamp"),
                    equal: rules.r#const.map(nanos),
                    lt: rules.lt.map(nanos),
                    lte: rules.lte.map(nanos),
                    gt: rules.gt.map(nanos),
                    gte: rules.gte.map(nanos),
                    within: Vec::new(),
                    without: Vec::new(),
                    ignore_empty: false,
                }))
            }
            Type::Repeated(_) | Type::Map(_) | Type::Any(_) => None,
        }
    }

    /// Whether the check was read in full and is about values of the kind.
    #[cfg(test)]
    pub(super) fn is_sound_for(&self, kind: &Kind) -> bool {
        use Kind::{Bool, Bytes, Double, Enum, Float, Message, String};
        let wrapper = match kind {
            Message(message) => message.full_name().strip_prefix("google.protobuf."),
            _ => None,
        };
        match self {
            Self::Text(check) => check.is_sound() && (*kind == String || wrapper == Some("StringValue")),
            Self::Bytes(check) => check.is_sound() && (*kind == Bytes || wrapper == Some("BytesValue")),
            Self::Bool(_) => *kind == Bool || wrapper == Some("BoolValue"),
            Self::Enum(_, defined) => matches!(kind, Enum(_)) && defined.is_some(),
            Self::Real(_) => {
                matches!(kind, Float | Double) || matches!(wrapper, Some("FloatValue" | "DoubleValue"))
            }
            // Envoy has no rules for timestamps, so that none needs a clock.
            Self::Time(_) => wrapper == Some("Duration"),
            Self::Integer(_) => match wrapper {
                Some(name) => name.contains("Int"),
                None => !matches!(kind, Message(_) | Enum(_) | String | Bytes | Bool | Float | Double),
            },
        }
    }

    /// The rules that a value breaks. A value of another type breaks none: descriptors were checked when the rules
    /// were compiled.
    pub(super) fn broken(&self, value: &Value) -> Vec<Broken> {
        match (self, value) {
            (Self::Integer(range), Value::I32(number)) => range.broken(&i128::from(*number), &0),
            (Self::Integer(range), Value::I64(number)) => range.broken(&i128::from(*number), &0),
            (Self::Integer(range), Value::U32(number)) => range.broken(&i128::from(*number), &0),
            (Self::Integer(range), Value::U64(number)) => range.broken(&i128::from(*number), &0),
            (Self::Real(range), Value::F32(number)) => range.broken(&f64::from(*number), &0.0),
            (Self::Real(range), Value::F64(number)) => range.broken(number, &0.0),
            (Self::Bool(expected), Value::Bool(found)) if expected != found => {
                vec![Broken::new("bool.const", format!("must be {expected}"))]
            }
            (Self::Text(check), Value::String(text)) => check.broken(text),
            (Self::Bytes(check), Value::Bytes(bytes)) => check.broken(bytes),
            (Self::Enum(rules, kind), Value::EnumNumber(number)) => {
                broken_enum(rules, kind.as_ref(), *number)
            }
            (Self::Time(range), Value::Message(message)) => time(message)
                .map(|nanos| range.shown(&nanos, &0, |nanos| format!("{}s", seconds(*nanos))))
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}

impl<T: PartialOrd + Display> Range<T> {
    fn broken(&self, value: &T, empty: &T) -> Vec<Broken> {
        self.shown(value, empty, ToString::to_string)
    }

    fn shown(&self, value: &T, empty: &T, show: impl Fn(&T) -> String) -> Vec<Broken> {
        if self.ignore_empty && value == empty {
            return Vec::new();
        }
        let names = &self.names;
        let mut broken = Vec::new();
        let mut refuse = |rule, text: String| broken.push(Broken::new(rule, text));
        if let Some(equal) = self.equal.as_ref().filter(|equal| *equal != value) {
            refuse(names.equal, format!("must be {}", show(equal)));
        }
        let under =
            self.lt.as_ref().map(|bound| (value < bound, names.lt, format!("less than {}", show(bound))));
        let under = under.or_else(|| {
            let bound = self.lte.as_ref()?;
            Some((value <= bound, names.lte, format!("at most {}", show(bound))))
        });
        let over =
            self.gt.as_ref().map(|bound| (value > bound, names.gt, format!("more than {}", show(bound))));
        let over = over.or_else(|| {
            let bound = self.gte.as_ref()?;
            Some((value >= bound, names.gte, format!("at least {}", show(bound))))
        });
        match (under, over) {
            // An upper bound below the lower one means "outside of".
            (Some((is_under, _, below)), Some((is_over, rule, above))) if self.is_inverted() => {
                if !is_under && !is_over {
                    refuse(rule, format!("must be {below} or {above}"));
                }
            }
            (under, over) => {
                for (is_kept, rule, bound) in [under, over].into_iter().flatten() {
                    if !is_kept {
                        refuse(rule, format!("must be {bound}"));
                    }
                }
            }
        }
        let list = |values: &[T]| values.iter().map(&show).collect::<Vec<_>>().join(", ");
        if !self.within.is_empty() && !self.within.contains(value) {
            refuse(names.within, format!("must be one of {}", list(&self.within)));
        }
        if self.without.contains(value) {
            refuse(names.without, format!("must not be one of {}", list(&self.without)));
        }
        broken
    }

    fn is_inverted(&self) -> bool {
        let upper = self.lt.as_ref().or(self.lte.as_ref());
        let lower = self.gt.as_ref().or(self.gte.as_ref());
        upper.zip(lower).is_some_and(|(upper, lower)| upper < lower)
    }
}

fn broken_enum(rules: &EnumRules, kind: Option<&EnumDescriptor>, number: i32) -> Vec<Broken> {
    let mut broken = Vec::new();
    let list = |values: &[i32]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let Some(equal) = rules.r#const.filter(|equal| *equal != number) {
        broken.push(Broken::new("enum.const", format!("must be {equal}")));
    }
    if rules.defined_only()
        && let Some(kind) = kind.filter(|kind| kind.get_value(number).is_none())
    {
        broken.push(Broken::new("enum.defined_only", format!("must be a value of {}", kind.full_name())));
    }
    if !rules.r#in.is_empty() && !rules.r#in.contains(&number) {
        broken.push(Broken::new("enum.in", format!("must be one of {}", list(&rules.r#in))));
    }
    if rules.not_in.contains(&number) {
        broken.push(Broken::new("enum.not_in", format!("must not be one of {}", list(&rules.not_in))));
    }
    broken
}

/// The value of a wrapper message, or a duration or timestamp itself: messages whose rules are about one value.
pub(super) fn unwrapped(message: &DynamicMessage) -> Option<Value> {
    let descriptor = message.descriptor();
    match descriptor.full_name().strip_prefix("google.protobuf.")? {
        "Duration" | "Timestamp" => Some(Value::Message(message.clone())),
        "Value" | "ListValue" => None,
        name if name.ends_with("Value") => message.get_field_by_number(1).map(std::borrow::Cow::into_owned),
        _ => None,
    }
}

/// A duration or timestamp in nanoseconds.
fn time(message: &DynamicMessage) -> Option<i128> {
    Some(nanos(message.get_field_by_number(1)?.as_i64()?, message.get_field_by_number(2)?.as_i32()?))
}

fn nanos(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// Nanoseconds as seconds, without digits that say nothing.
fn seconds(nanos: i128) -> String {
    let (sign, nanos) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let text = format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A value for people, shortened.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) | Value::EnumNumber(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Message(message) => {
            time(message).map(|nanos| format!("{}s", seconds(nanos))).unwrap_or_default()
        }
        Value::List(list) => format!("{} items", list.len()),
        Value::Map(map) => format!("{} pairs", map.len()),
    }
}

/// Text in quotes, shortened and escaped.
pub(super) fn quoted(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A map key as it stands in a path.
pub(super) fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(value) => value.clone(),
    }
}
