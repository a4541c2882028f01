//! Metrics in the text format of Prometheus: families with their help and type, each with its samples.
//!
//! **Invariant:** one family has one type, one help and no two samples with the same labels, and no label is a snapshot's.

use std::fmt::Write;

/// What a number may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, but for a new beginning.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// Samples of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// What it is called.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// What it may do.
    pub kind: Kind,
    /// Labels and numbers.
    pub samples: Vec<(Labels, f64)>,
}

/// Keys and values; one without a value is left out.
pub type Labels = Vec<(&'static str, String)>;

/// All families as text, those without samples left out.
pub fn exposition(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { name, help, kind, samples } in families.iter().filter(|family| !family.samples.is_empty()) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, number) in samples {
            let _ = writeln!(text, "{name}{} {number}", braced(labels));
        }
    }
    text
}

fn braced(labels: &Labels) -> String {
    let all: Vec<_> = labels
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
        .collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_type_and_samples_and_none_without_samples() {
        let family = |samples| Family { name: "x_total", help: "What.", kind: Kind::Counter, samples };
        let labels = vec![("job", "a\"b\\c\nd".to_owned()), ("target", String::new())];
        let text = exposition(&[family(Vec::new()), family(vec![(labels, 3.0), (Vec::new(), 0.5)])]);
        let expected =
            "# HELP x_total What.\n# TYPE x_total counter\nx_total{job=\"a\\\"b\\\\c\\nd\"} 3\nx_total 0.5\n";
        assert_eq!(text, expected);
    }
}
