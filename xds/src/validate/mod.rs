//! Whether documents make sense.

mod names;

pub(crate) use self::names::{NAME_HINT, name_fault};
