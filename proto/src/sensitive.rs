//! Which fields hold secrets, so that no error text shows what is in them.

use std::sync::LazyLock;

use prost_reflect::{ExtensionDescriptor, FieldDescriptor, Value};

use crate::POOL;

static SENSITIVE: LazyLock<Option<ExtensionDescriptor>> =
    LazyLock::new(|| POOL.get_extension_by_name("udpa.annotations.sensitive"));

/// Whether Envoy marks the field as sensitive, or it is a place where operators put keys inline.
pub(crate) fn is_sensitive(field: &FieldDescriptor) -> bool {
    let inline = field.parent_message().full_name() == "envoy.config.core.v3.DataSource"
        && matches!(field.name(), "inline_bytes" | "inline_string");
    inline
        || SENSITIVE.as_ref().is_some_and(|mark| {
            let options = field.options();
            options.has_extension(mark) && *options.get_extension(mark) == Value::Bool(true)
        })
}
