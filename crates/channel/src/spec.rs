//! A stage of a chain as text: the name of its model and its parameters, as TOML, JSON and command lines carry them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use num_complex::Complex32;
use serde::{Deserialize, Serialize};

use crate::models::{self, Model};
use crate::{Error, Result};

/// A stage: `{ model = "rayleigh", doppler = 0.01 }`, or `rayleigh,doppler=0.01` on a command line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSpec {
    /// Name of the model, one of [`models::ALL`].
    pub model: String,
    /// Its parameters by name; those that are not given have their defaults.
    #[serde(flatten)]
    pub parameters: BTreeMap<String, Value>,
}

/// Value of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A name.
    Text(String),
    /// Several numbers; on a command line with colons between them.
    Numbers(Vec<f64>),
}

/// What a parameter means and may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Its name; it carries the unit where there is one.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What it may be.
    pub kind: Kind,
}

/// What a parameter may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A number from the first to the second, both allowed; the default, if it may be left out.
    Number(f64, f64, Option<f64>),
    /// A whole number from the first to the second; the default.
    Whole(u64, u64, u64),
    /// One of these names; the first is the default.
    Choice(&'static [&'static str]),
    /// A list of numbers, each from the first to the second; none unless given.
    Numbers(f64, f64),
    /// Name of a file with impulse responses; it must be given.
    Responses,
}

/// Measured impulse responses, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Responses {
    /// Taps of each response, at least 1.
    pub taps: usize,
    /// `taps` coefficients for each response.
    pub values: Arc<[Complex32]>,
}

/// Where a chain's stages find the impulse responses that they name.
pub type Library<'a> = &'a dyn Fn(&str) -> std::result::Result<Responses, String>;

/// A stage's parameters while its model is built: checked against the model's table before.
pub(crate) struct Reader<'a> {
    spec: &'a StageSpec,
    description: &'static models::Description,
    library: Library<'a>,
}

impl StageSpec {
    /// A stage whose parameters all have their defaults.
    pub fn new(model: impl Into<String>) -> StageSpec {
        StageSpec { model: model.into(), parameters: BTreeMap::new() }
    }

    /// With a number as parameter.
    #[must_use]
    pub fn with(self, name: impl Into<String>, number: f64) -> StageSpec {
        self.with_value(name, Value::Number(number))
    }

    /// With a parameter of any kind.
    #[must_use]
    pub fn with_value(mut self, name: impl Into<String>, value: Value) -> StageSpec {
        self.parameters.insert(name.into(), value);
        self
    }

    /// The model's description.
    ///
    /// # Errors
    /// [`Error::UnknownModel`].
    pub fn description(&self) -> Result<&'static models::Description> {
        models::find(&self.model)
    }

    /// Checks all parameters and builds the model.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], [`Error::UnknownParameter`], [`Error::MissingParameter`] and [`Error::Parameter`], each with model,
    /// parameter and what is allowed; [`Error::Responses`] where `library` has none of that name.
    pub(crate) fn build(&self, library: Library<'_>) -> Result<Arc<dyn Model>> {
        let description = self.description()?;
        for (name, value) in &self.parameters {
            let parameter = description.parameters.iter().find(|parameter| parameter.name == name.as_str());
            let parameter = parameter.ok_or_else(|| Error::UnknownParameter {
                model: description.name,
                name: name.clone(),
                known: description.parameters.iter().map(|parameter| parameter.name).collect::<Vec<_>>().join(", "),
            })?;
            if !parameter.kind.allows(value) {
                return Err(parameter.refused(description.name, value));
            }
        }
        (description.build)(&Reader { spec: self, description, library })
    }
}

impl Parameter {
    fn refused(&self, model: &'static str, value: impl ToString) -> Error {
        Error::Parameter { model, name: self.name, value: value.to_string(), range: self.kind.to_string() }
    }
}

impl Kind {
    /// What it is where it is not given; `None` where it must be, or where nothing stands for it.
    pub fn default(&self) -> Option<Value> {
        match self {
            Kind::Number(_, _, default) => default.map(Value::Number),
            Kind::Whole(_, _, default) => Some(Value::Number(*default as f64)),
            Kind::Choice(names) => names.first().map(|name| Value::Text((*name).to_owned())),
            Kind::Numbers(..) | Kind::Responses => None,
        }
    }

    fn allows(&self, value: &Value) -> bool {
        let within = |x: &f64, least: f64, most: f64| (least..=most).contains(x);
        match (self, value) {
            (Kind::Number(least, most, _), Value::Number(x)) => within(x, *least, *most),
            (Kind::Whole(least, most, _), Value::Number(x)) => {
                x.fract() == 0.0 && within(x, *least as f64, *most as f64)
            }
            (Kind::Choice(names), Value::Text(name)) => names.contains(&name.as_str()),
            (Kind::Numbers(least, most), Value::Numbers(list)) => list.iter().all(|x| within(x, *least, *most)),
            // A list of one, as a command line has it.
            (Kind::Numbers(least, most), Value::Number(x)) => within(x, *least, *most),
            (Kind::Responses, Value::Text(name)) => !name.is_empty(),
            _ => false,
        }
    }
}

impl Reader<'_> {
    fn parameter(&self, name: &str) -> &'static Parameter {
        let found = self.description.parameters.iter().find(|parameter| parameter.name == name);
        // A slip in a model's own file, which its first test finds.
        found.unwrap_or_else(|| panic!("{} has no parameter {name}", self.description.name))
    }

    pub(crate) fn number(&self, name: &str) -> Result<f64> {
        let parameter = self.parameter(name);
        match (self.spec.parameters.get(name), parameter.kind) {
            (Some(Value::Number(x)), _) => Ok(*x),
            (_, Kind::Number(_, _, Some(default))) => Ok(default),
            (_, Kind::Whole(_, _, default)) => Ok(default as f64),
            _ => Err(self.missing(parameter)),
        }
    }

    pub(crate) fn whole(&self, name: &str) -> Result<u64> {
        self.number(name).map(|x| x as u64)
    }

    pub(crate) fn choice(&self, name: &str) -> Result<&str> {
        let parameter = self.parameter(name);
        match (self.spec.parameters.get(name), parameter.kind) {
            (Some(Value::Text(name)), _) => Ok(name),
            (_, Kind::Choice([default, ..])) => Ok(default),
            _ => Err(self.missing(parameter)),
        }
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f64> {
        match self.spec.parameters.get(name) {
            Some(Value::Numbers(list)) => list.clone(),
            Some(Value::Number(x)) => vec![*x],
            _ => Vec::new(),
        }
    }

    pub(crate) fn responses(&self, name: &str) -> Result<Responses> {
        let parameter = self.parameter(name);
        let Some(Value::Text(file)) = self.spec.parameters.get(name) else { return Err(self.missing(parameter)) };
        let found = (self.library)(file).map_err(|problem| Error::Responses { file: file.clone(), problem })?;
        let problem = if found.taps == 0 || found.values.is_empty() {
            Some("there are none".to_owned())
        } else if !found.values.len().is_multiple_of(found.taps) {
            Some(format!("{} coefficients are no whole number of responses of {}", found.values.len(), found.taps))
        } else {
            found
                .values
                .iter()
                .position(|h| !h.norm_sqr().is_finite())
                .map(|i| format!("coefficient {i} is not finite"))
        };
        match problem {
            Some(problem) => Err(Error::Responses { file: file.clone(), problem }),
            None => Ok(found),
        }
    }

    /// Whether it stands there, be it with its default.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.spec.parameters.contains_key(name)
    }

    /// A value that its range allows but not the others.
    pub(crate) fn refused(&self, name: &str, value: impl ToString, range: impl ToString) -> Error {
        let (model, name) = (self.description.name, self.parameter(name).name);
        Error::Parameter { model, name, value: value.to_string(), range: range.to_string() }
    }

    fn missing(&self, parameter: &Parameter) -> Error {
        Error::MissingParameter {
            model: self.description.name,
            name: parameter.name,
            range: parameter.kind.to_string(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Number(least, most, _) => write!(f, "a number in [{least}, {most}]"),
            Kind::Whole(least, most, _) => write!(f, "a whole number in [{least}, {most}]"),
            Kind::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Kind::Numbers(least, most) => write!(f, "a list of numbers in [{least}, {most}]"),
            Kind::Responses => f.write_str("the name of a recording of impulse responses"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(x) => write!(f, "{x}"),
            Value::Text(text) => f.write_str(text),
            Value::Numbers(list) => f.write_str(&list.iter().map(f64::to_string).collect::<Vec<_>>().join(":")),
        }
    }
}

/// The number that a person would write for this f32: 0.1, not 0.10000000149.
impl From<f32> for Value {
    fn from(x: f32) -> Value {
        Value::Number(x.to_string().parse().unwrap_or(f64::from(x)))
    }
}

impl FromStr for Value {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Value, Self::Err> {
        let numbers: std::result::Result<Vec<f64>, _> = text.split(':').map(str::parse).collect();
        Ok(match numbers {
            Ok(list) if list.len() == 1 => Value::Number(list[0]),
            Ok(list) => Value::Numbers(list),
            Err(_) => Value::Text(text.to_owned()),
        })
    }
}

/// As on a command line: `tdl,profile=A,delay_spread_ns=30`.
impl fmt::Display for StageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        self.parameters.iter().try_for_each(|(name, value)| write!(f, ",{name}={value}"))
    }
}

impl FromStr for StageSpec {
    type Err = Error;

    /// # Errors
    /// [`Error::StageText`] for what is no `NAME=VALUE`; whether model and values exist shows when a chain is built.
    fn from_str(text: &str) -> Result<StageSpec> {
        let mut parts = text.split(',').map(str::trim);
        let mut spec = StageSpec::new(parts.next().unwrap_or_default());
        for part in parts {
            let wrong = || Error::StageText { text: text.to_owned(), part: part.to_owned() };
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let (name, Ok(value)) = (name.trim().to_owned(), value.trim().parse());
            if spec.parameters.insert(name, value).is_some() {
                return Err(wrong());
            }
        }
        Ok(spec)
    }
}
