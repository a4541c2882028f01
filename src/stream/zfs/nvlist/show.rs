//! A list as one line of text.

use std::fmt::{self, Display, Formatter, Write};

use super::{List, Value};

/// How many bytes, and elements of other kinds, are shown of a value that may have many.
const SHOWN: usize = 32;

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
            Self::Bytes(bytes) => {
                bytes.iter().take(SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                match bytes.len() {
                    ..=SHOWN => Ok(()),
                    len => write!(f, "…({len} bytes)"),
                }
            }
            Self::Bools(values) => several(f, values.iter()),
            Self::Ints(values) => several(f, values.iter()),
            Self::Uints(values) => several(f, values.iter()),
            Self::Texts(texts) => several(f, texts.iter().map(|text| format!("{text:?}"))),
            Self::List(list) => list.fmt(f),
            Self::Lists(lists) => several(f, lists.iter()),
        }
    }
}

fn several(f: &mut Formatter<'_>, items: impl ExactSizeIterator<Item = impl Display>) -> fmt::Result {
    let more = items.len().checked_sub(SHOWN).filter(|&more| more > 0);
    let more = more.map(|more| format!("…{more} more"));
    enclosed(f, '[', items.take(SHOWN).map(|item| item.to_string()).chain(more), ']')
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
