//! What is said on standard error: for people, or as one JSON object a line.

use std::fmt;
use std::io::{self, IsTerminal};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How standard error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line: `timestamp`, `level`, `message`, and more.
    Json,
}

impl Format {
    /// A line of that level, as `text` or as an object.
    pub fn line(self, level: &str, text: &str, message: &str) -> String {
        match self {
            Self::Text => text.to_owned(),
            Self::Json => object(level, message, Map::new()).to_string(),
        }
    }
}

fn object(level: &str, message: &str, fields: Map<String, Value>) -> Value {
    let mut object = json!({ "timestamp": Timestamp::now(), "level": level, "message": message });
    if !fields.is_empty() {
        object["fields"] = fields.into();
    }
    object
}

/// Has everything that is traced written to standard error.
pub fn begin(verbose: u8, format: Format) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // What RUST_LOG can say needs regular expressions, whose making costs a good part of a snapshot's time.
    let filter = std::env::var_os("RUST_LOG").map(|_| tracing_subscriber::EnvFilter::from_default_env());
    let to_stderr = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match (format, filter) {
        (Format::Text, Some(filter)) => to_stderr.with_env_filter(filter).init(),
        (Format::Text, None) => to_stderr.with_max_level(level).init(),
        (Format::Json, Some(filter)) => to_stderr.event_format(Lines).with_env_filter(filter).init(),
        (Format::Json, None) => to_stderr.event_format(Lines).with_max_level(level).init(),
    }
}

/// Events as objects.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let message = fields.0.remove("message");
        let message = message.as_ref().and_then(Value::as_str).unwrap_or_default();
        let mut object = object(event.metadata().level().as_str(), message, fields.0);
        object["target"] = event.metadata().target().into();
        writeln!(to, "{object}")
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
}
