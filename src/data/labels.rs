//! From a row of the spreadsheet to a class.
//!
//! Classes are the values that occur among the recordings present; a row whose value matches no class belongs to none
//! and gives no windows.

use std::collections::{BTreeMap, BTreeSet};

use super::DataError;
use super::spreadsheet::{SCENARIO, field};

/// One of the data set's six scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The class's short name.
    pub name: &'static str,
    /// What the scenario's text starts with, lower case.
    pub prefix: &'static str,
    /// The text the source compared with, exactly.
    pub source_text: &'static str,
}

/// The six scenarios, in the order of their class numbers 1 to 6.
pub const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "rest: laying on bed",
        prefix: "rest: laying on bed",
        source_text: "Rest: laying on bed",
    },
    Scenario {
        name: "rest: sitting on armchair",
        prefix: "rest: sitting on armchair",
        source_text: "Rest: sitting on armchair",
    },
    Scenario {
        name: "exercise: walking at constant speed",
        prefix: "exercise: walking at constant speed (3.7 km/h)",
        source_text: "Exercise: walking at constant speed (3.7 km/h)",
    },
    Scenario {
        name: "exercise: pedaling a stationary bicycle",
        prefix: "exercise: pedaling a stationary bicycle",
        source_text: "Exercise: pedaling a stationary bicycle",
    },
    Scenario {
        name: "exercise: bicycle stress test",
        prefix: "exercise: bicycle stress test",
        source_text: "Exercise: bicycle stress test",
    },
    Scenario {
        name: "exercise: bruce protocol treadmill stress test",
        prefix: "exercise: bruce protocol treadmill stress test",
        source_text: "Exercise: Bruce protocol treadmill stress test",
    },
];

/// How a recording gets its class.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum LabelRule {
    /// The column `Recording Scenario`, trimmed, case-insensitive, by prefix: six classes.
    #[default]
    Scenario,
    /// The same column compared exactly, as the source did: the published spreadsheet has a trailing blank behind the
    /// walking scenario, so that class is empty and five remain.
    SourceScenario,
    /// The distinct non-empty values of another column, trimmed, in sorted order.
    Column(String),
}

/// Classes and the class of each row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Labels {
    pub(crate) classes: Vec<String>,
    pub(crate) of_row: Vec<Option<u32>>,
}

/// The fields of one spreadsheet row, by column name.
type Fields = BTreeMap<String, String>;

impl LabelRule {
    /// The spreadsheet column it reads.
    pub fn column(&self) -> &str {
        match self {
            Self::Scenario | Self::SourceScenario => SCENARIO,
            Self::Column(name) => name,
        }
    }

    /// The value this row has under the rule; none if it belongs to no class.
    ///
    /// # Errors
    /// When the row lacks the column; `place` names the file.
    pub(crate) fn value(&self, fields: &Fields, place: &str) -> Result<Option<String>, DataError> {
        let missing = || DataError::MissingColumn {
            place: place.into(),
            column: self.column().into(),
            found: fields.keys().cloned().collect(),
        };
        let text = field(fields, self.column()).ok_or_else(missing)?;
        Ok(match self {
            Self::Scenario => {
                let text = text.trim().to_lowercase();
                SCENARIOS.iter().find(|s| text.starts_with(s.prefix)).map(|s| s.name.to_owned())
            }
            Self::SourceScenario => {
                SCENARIOS.iter().find(|s| text == s.source_text).map(|s| s.name.to_owned())
            }
            Self::Column(_) => Some(text.trim().to_owned()).filter(|t| !t.is_empty()),
        })
    }

    /// Classes that occur among these rows, and each row's class.
    pub(crate) fn assign<'a>(
        &self,
        rows: impl Iterator<Item = &'a Fields>,
        place: &str,
    ) -> Result<Labels, DataError> {
        let values = rows.map(|fields| self.value(fields, place)).collect::<Result<Vec<_>, _>>()?;
        let present: BTreeSet<&String> = values.iter().flatten().collect();
        let classes: Vec<String> = match self {
            Self::Column(_) => present.into_iter().cloned().collect(),
            _ => {
                let names = SCENARIOS.iter().map(|s| s.name.to_owned());
                names.filter(|name| present.contains(name)).collect()
            }
        };
        let index = |value: &Option<String>| {
            let value = value.as_ref()?;
            classes.iter().position(|class| class == value).map(|i| i as u32)
        };
        let of_row = values.iter().map(index).collect();
        Ok(Labels { classes, of_row })
    }
}
