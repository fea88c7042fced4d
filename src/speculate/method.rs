//! The table of drafting methods: names, what they do, parameters with their ranges and defaults.

use std::fmt;

use super::{Drafter, MOST_HISTORY, MOST_MODEL, ngram_cache, ngram_map_k, ngram_mod, ngram_simple};
use crate::error::{Error, Result};

/// A number a user may give a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    pub name: &'static str,
    pub what: &'static str,
    pub default: f64,
    pub least: f64,
    pub most: f64,
    /// Whether it may lie between two whole numbers.
    pub fraction: bool,
}

impl Parameter {
    /// A parameter that is a whole number.
    pub(super) const fn count(
        name: &'static str,
        default: u32,
        least: u32,
        most: u32,
        what: &'static str,
    ) -> Self {
        let (default, least, most) = (default as f64, least as f64, most as f64);
        Parameter { name, what, default, least, most, fraction: false }
    }

    /// A parameter that is a probability.
    pub(super) const fn share(name: &'static str, default: f64, what: &'static str) -> Self {
        Parameter { name, what, default, least: 0.0, most: 1.0, fraction: true }
    }
}

/// One method.
pub struct MethodRow {
    pub name: &'static str,
    pub what: &'static str,
    pub parameters: &'static [Parameter],
    /// Most tokens it is asked for in one round.
    pub most: usize,
    /// Makes the drafter from one value per parameter; `None` for those that draft on the device.
    pub(super) make: Option<fn(&[f64]) -> Box<dyn Drafter>>,
}

/// THE table of methods.
pub const METHODS: &[MethodRow] = &[
    MethodRow {
        name: "draft-model",
        what: "a smaller model with the same vocabulary",
        // A step pays while the token's probability exceeds its cost, 0.1 to 0.2 of the target's step with its row of
        // the verification; small models are surer than they are right.
        parameters: &[Parameter::share("p-min", 0.3, "stop at a token less likely than this")],
        most: MOST_MODEL,
        make: None,
    },
    MethodRow {
        name: "mtp",
        what: "the model's own layers that predict further tokens",
        // A step costs less than a draft model's, so it may be less sure.
        parameters: &[Parameter::share("p-min", 0.2, "stop at a token less likely than this")],
        most: MOST_MODEL,
        make: None,
    },
    MethodRow {
        name: "ngram-simple",
        what: "what followed the last earlier occurrence of the newest n tokens",
        parameters: ngram_simple::PARAMETERS,
        most: MOST_HISTORY,
        make: Some(ngram_simple::make),
    },
    MethodRow {
        name: "ngram-map-k",
        what: "what followed the newest n tokens each of the last times, as far as it was accepted",
        parameters: ngram_map_k::PARAMETERS,
        most: MOST_HISTORY,
        make: Some(ngram_map_k::make),
    },
    MethodRow {
        name: "ngram-mod",
        what: "for each hash of n tokens the token that came next; long repetitions",
        parameters: ngram_mod::PARAMETERS,
        most: MOST_HISTORY,
        make: Some(ngram_mod::make),
    },
    MethodRow {
        name: "ngram-cache",
        what: "counts of what followed the newest one to four tokens; short repetitions",
        parameters: ngram_cache::PARAMETERS,
        most: MOST_HISTORY,
        make: Some(ngram_cache::make),
    },
];

/// A row of [`METHODS`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(u8);

impl Method {
    /// The method whose drafts come from a second model on the device.
    pub const DRAFT_MODEL: Method = Method(0);
    /// The method whose drafts come from the model's own layers that predict further tokens.
    pub const MTP: Method = Method(1);

    /// All methods, in the order of the table.
    pub fn all() -> impl Iterator<Item = Method> {
        (0..METHODS.len()).map(|index| Method(index as u8))
    }

    pub fn row(self) -> &'static MethodRow {
        &METHODS[self.index()]
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Its place in [`METHODS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether its drafts come from the conversation's own tokens.
    pub fn is_history(self) -> bool {
        self.row().make.is_some()
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A method with values for its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub method: Method,
    /// One value per parameter of the row.
    values: Vec<f64>,
}

impl Setting {
    /// The method with its defaults.
    pub fn new(method: Method) -> Self {
        Setting { method, values: method.row().parameters.iter().map(|p| p.default).collect() }
    }

    /// Reads a list as `--spec` takes it: `TYPE[:NAME=VALUE…][,TYPE…]`, for example
    /// `ngram-simple:size-n=8,draft-model`.
    ///
    /// Errors: a method, parameter or value that does not exist, or a method named twice.
    pub fn parse_list(list: &str) -> Result<Vec<Setting>> {
        let mut settings: Vec<Setting> = Vec::new();
        for item in list.split(',') {
            let setting = Self::parse(item.trim())?;
            if settings.iter().any(|other| other.method == setting.method) {
                return Err(argument(
                    "the list of drafting methods",
                    format!("{} twice", setting.method),
                    "each once",
                ));
            }
            settings.push(setting);
        }
        Ok(settings)
    }

    fn parse(item: &str) -> Result<Setting> {
        let mut parts = item.split(':');
        let name = parts.next().unwrap_or_default();
        let method = Method::all().find(|method| method.name() == name).ok_or_else(|| {
            let known: Vec<_> = METHODS.iter().map(|row| row.name).collect();
            argument("the drafting method", format!("\"{name}\""), &known.join(", "))
        })?;
        let mut setting = Setting::new(method);
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            setting.set(name, value)?;
        }
        Ok(setting)
    }

    /// Sets a parameter from text.
    ///
    /// Errors: a parameter the method does not have, a value it may not take.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let parameters = self.method.row().parameters;
        let Some(index) = parameters.iter().position(|p| p.name == name) else {
            let known: Vec<_> = parameters.iter().map(|p| p.name).collect();
            let what = format!("a parameter of {}", self.method);
            return Err(argument(&what, format!("\"{name}\""), &known.join(", ")));
        };
        let p = &parameters[index];
        let number = value.parse::<f64>().ok();
        let fits = |v: &f64| (p.least..=p.most).contains(v) && (p.fraction || v.fract() == 0.0);
        self.values[index] = number.filter(fits).ok_or_else(|| {
            let allowed = format!("{} to {}", p.least, p.most);
            argument(&format!("{name} of {}", self.method), format!("\"{value}\""), &allowed)
        })?;
        Ok(())
    }

    /// The value of a parameter; `None` for one the method does not have.
    pub fn get(&self, name: &str) -> Option<f64> {
        let index = self.method.row().parameters.iter().position(|p| p.name == name)?;
        Some(self.values[index])
    }

    /// The drafter; `None` for those that draft on the device.
    pub fn make(&self) -> Option<Box<dyn Drafter>> {
        self.method.row().make.map(|make| make(&self.values))
    }
}

fn argument(what: &str, found: String, allowed: &str) -> Error {
    Error::Argument { what: what.to_owned(), found, allowed: allowed.to_owned() }
}
