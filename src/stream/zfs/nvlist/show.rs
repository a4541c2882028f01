//! A list as one line of text.

use std::fmt::{self, Display, Formatter, Write};

use super::{List, Value};

/// `{name: value, …}`
impl Display for List {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let pairs = self.iter().map(|(name, value)| match value {
            Value::Flag => name.escape_debug().to_string(),
            _ => format!("{}: {value}", name.escape_debug()),
        });
        enclosed(f, '{', pairs, '}')
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => Ok(()),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Double(value) => value.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Bools(values) => enclosed(f, '[', values.iter(), ']'),
            Self::Ints(values) => enclosed(f, '[', values.iter(), ']'),
            Self::Uints(values) => enclosed(f, '[', values.iter(), ']'),
            Self::Texts(texts) => enclosed(f, '[', texts.iter().map(|text| format!("{text:?}")), ']'),
            Self::List(list) => list.fmt(f),
            Self::Lists(lists) => enclosed(f, '[', lists.iter(), ']'),
        }
    }
}

fn enclosed(
    f: &mut Formatter<'_>,
    open: char,
    items: impl Iterator<Item = impl Display>,
    close: char,
) -> fmt::Result {
    f.write_char(open)?;
    for (n, item) in items.enumerate() {
        f.write_str(if n == 0 { "" } else { ", " })?;
        item.fmt(f)?;
    }
    f.write_char(close)
}
