//! A cursor over the TOML tree: typed access to keys that records what does not fit and goes on.
//!
//! Receives a spanned tree. Guarantees that every unknown key, and every value of a wrong type that
//! a reader asks for, becomes one finding. Never stops at the first.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::findings::Findings;
use super::keys;
use super::source::{Place, Source};

/// A table whose keys are known.
pub(crate) struct Table<'a> {
    /// How messages name it, for example `service "web"`; empty at the top level.
    pub(crate) subject: Rc<str>,
    /// Where it begins.
    pub(crate) place: Place,
    /// The collector.
    pub(crate) findings: &'a Findings,
    entries: &'a DeTable<'a>,
    keys: &'static [&'static str],
    defaults: Option<&'a Table<'a>>,
    source: &'a Rc<Source>,
}

impl<'a> Table<'a> {
    /// The top table of a file; reports keys that are not in `keys`.
    pub(crate) fn top(
        tree: &'a Spanned<DeTable<'a>>,
        keys: &'static [&'static str],
        source: &'a Rc<Source>,
        findings: &'a Findings,
    ) -> Self {
        let place = source.place(tree.span().start);
        let table = Table {
            subject: "".into(),
            place,
            findings,
            entries: tree.get_ref(),
            keys,
            defaults: None,
            source,
        };
        table.report_unknown();
        table
    }

    /// Makes keys that are missing here come from `defaults`.
    pub(crate) fn with_defaults(self, defaults: &'a Table<'a>) -> Table<'a> {
        Table { defaults: Some(defaults), ..self }
    }

    /// The table that missing keys come from.
    pub(crate) fn defaults(&self) -> Option<&'a Table<'a>> {
        self.defaults
    }

    /// The value of a key here, or in the defaults.
    pub(crate) fn value(&self, key: &'static str) -> Option<Node<'a>> {
        self.own(key).or_else(|| {
            let defaults = self.defaults.filter(|defaults| defaults.keys.contains(&key))?;
            defaults.own(key)
        })
    }

    /// The value of a key here.
    pub(crate) fn own(&self, key: &'static str) -> Option<Node<'a>> {
        debug_assert!(self.keys.contains(&key), "{key} is missing from the key list of {}", self.subject);
        let value = self.entries.get(key)?;
        Some(Node {
            value: value.get_ref(),
            place: self.source.place(value.span().start),
            subject: Rc::clone(&self.subject),
            key: key.to_owned(),
            findings: self.findings,
            source: self.source,
        })
    }

    /// The value of a key that has no default; reports its absence.
    pub(crate) fn required(&self, key: &'static str, example: &str) -> Option<Node<'a>> {
        let value = self.value(key);
        if value.is_none() {
            self.error(key, format!("`{key}` is missing: add {example}"));
        }
        value
    }

    /// Reports a problem with the table as a whole.
    pub(crate) fn error(&self, key: &str, message: impl Into<String>) {
        self.findings.error(&self.place, &self.subject, key, message);
    }

    fn report_unknown(&self) {
        for key in self.entries.keys() {
            let name: &str = key.get_ref();
            if !self.keys.contains(&name) {
                let place = self.source.place(key.span().start);
                let message = format!("unknown key `{name}`: {}", keys::remedy(name, self.keys));
                self.findings.error(&place, &self.subject, name, message);
            }
        }
    }
}

/// A value, with what messages need to point at it.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    /// Where it begins.
    pub(crate) place: Place,
    /// The table it is in.
    pub(crate) subject: Rc<str>,
    /// Its key.
    pub(crate) key: String,
    value: &'a DeValue<'a>,
    findings: &'a Findings,
    source: &'a Rc<Source>,
}

impl<'a> Node<'a> {
    /// Reports a problem; the message continues a sentence that begins with the key.
    pub(crate) fn fail(&self, message: impl Display) {
        self.findings.error(&self.place, &self.subject, &self.key, format!("{} {message}", self.key));
    }

    /// Remarks on a value that is used all the same.
    pub(crate) fn warn(&self, message: impl Display) {
        self.findings.warning(&self.place, &self.subject, &self.key, format!("{} {message}", self.key));
    }

    fn wrong_type(&self, expected: &str) {
        self.fail(format_args!("must be {expected}, got {}", self.written()));
    }

    /// The value as messages show it: short scalars as they are, the rest by type.
    pub(crate) fn written(&self) -> String {
        match self.value {
            DeValue::String(text) if text.chars().count() <= 60 => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::String(_) => "a long string".to_owned(),
        }
    }

    /// The string, where the value is one; silent otherwise.
    pub(crate) fn as_string(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Whether the value is a table; silent.
    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether the value is an array; silent.
    pub(crate) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    /// The integer, where the value is one; silent otherwise. Negative numbers and those past 64 bits
    /// are no integers here.
    pub(crate) fn as_integer(&self) -> Option<u64> {
        let number = self.value.as_integer()?;
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// A string; `expected` says of what kind, for the message.
    pub(crate) fn string(&self, expected: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type(expected);
        }
        text
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_type("true or false");
        }
        value
    }

    /// An integer in a range.
    pub(crate) fn integer<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + Display + TryFrom<u64> + PartialOrd,
    {
        let value = self.as_integer().and_then(|number| T::try_from(number).ok());
        let value = value.filter(|number| range.contains(number));
        if value.is_none() {
            self.wrong_type(&format!("an integer from {} to {}", range.start(), range.end()));
        }
        value
    }

    /// A share from 0 to 1.
    pub(crate) fn share(&self) -> Option<f64> {
        let value = match self.value {
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(_) => self.as_integer().and_then(|n| u32::try_from(n).ok()).map(f64::from),
            _ => None,
        };
        let value = value.filter(|share| (0.0..=1.0).contains(share));
        if value.is_none() {
            self.wrong_type("a number from 0.0 to 1.0");
        }
        value
    }

    /// One word of a list; `None` marks a word that later versions take.
    pub(crate) fn word<T: Copy>(&self, choices: &[(&str, Option<T>)]) -> Option<T> {
        let available = || {
            let words = choices.iter().filter(|choice| choice.1.is_some()).map(|choice| choice.0);
            words.collect::<Vec<_>>().join(", ")
        };
        let text = self.string(&format!("one of: {}", available()))?;
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, Some(choice))) => return Some(*choice),
            Some((_, None)) => {
                self.fail(format_args!(
                    "{text:?} is not available in this version; available: {}",
                    available()
                ));
            }
            None => {
                let nearest = keys::nearest(text, choices.iter().map(|choice| choice.0));
                let hint = nearest.map(|word| format!(" (did you mean {word:?}?)")).unwrap_or_default();
                self.fail(format_args!("{text:?} is unknown{hint}; available: {}", available()));
            }
        }
        None
    }

    /// The elements of an array, or the value itself.
    pub(crate) fn items(&self) -> Vec<Node<'a>> {
        let DeValue::Array(array) = self.value else { return vec![self.clone()] };
        let node = |item: &'a Spanned<DeValue<'a>>| Node {
            value: item.get_ref(),
            place: self.source.place(item.span().start),
            ..self.clone()
        };
        array.iter().map(node).collect()
    }

    /// A single table.
    pub(crate) fn table(&self, subject: String, keys: &'static [&'static str]) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value else {
            self.wrong_type("a table");
            return None;
        };
        let table = Table {
            subject: subject.into(),
            place: self.place.clone(),
            findings: self.findings,
            entries,
            keys,
            defaults: None,
            source: self.source,
        };
        table.report_unknown();
        Some(table)
    }

    /// Tables of an array of tables (or a single one), named by their `name` or their number.
    pub(crate) fn tables(&self, subject: &str, keys: &'static [&'static str]) -> Vec<Table<'a>> {
        let named = |(index, item): (usize, Node<'a>)| {
            let name = match item.value {
                DeValue::Table(entries) => entries.get("name").and_then(|name| name.get_ref().as_str()),
                _ => None,
            };
            let number = || match self.is_array() {
                true => format!("{subject} {}", index + 1),
                false => subject.to_owned(),
            };
            item.table(name.map_or_else(number, |name| format!("{subject} {name:?}")), keys)
        };
        self.items().into_iter().enumerate().filter_map(named).collect()
    }
}
