//! The confusion matrix, and what follows from it.
//!
//! Conventions are those of scikit-learn's `classification_report(truth, predicted, zero_division=0)`: a
//! quotient whose denominator is 0 counts as 0, and averages go over the classes that occur in the truth **or**
//! among the predictions. A class that occurs in neither has no figures (`null` in JSON, `-` in a table).

use std::fmt;

use serde::Serialize;

use super::table::{Align, Table, shorten_all};

/// Longest class name in a table, in characters.
const NAME_WIDTH: usize = 32;

/// A class index without a class.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// A truth or a prediction lies outside the classes.
    #[error("the {what} class index {index} is out of range: expected less than {classes}")]
    ClassOutOfRange {
        /// "true" or "predicted".
        what: &'static str,
        /// The index.
        index: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// Counts of another number of classes than there are names.
    #[error("a confusion matrix of {found} classes was counted, expected {expected}")]
    ClassCount {
        /// Names.
        expected: usize,
        /// Rows, or columns of a row.
        found: usize,
    },
    /// Two matrices that should be added name different classes.
    #[error("confusion matrices of different classes cannot be added: expected {expected}, found {found}")]
    DifferentClasses {
        /// Classes of the one, joined by commas.
        expected: String,
        /// Classes of the other, joined by commas.
        found: String,
    },
}

/// How often each class was taken for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: Vec<String>,
    counts: Vec<Vec<u64>>,
}

/// One class's figures, each in 0..=1; `None` for a class in neither truth nor prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassMetrics {
    /// The class.
    pub name: String,
    /// Share of the windows predicted to be of this class that are.
    pub precision: Option<f64>,
    /// Share of the windows of this class that are predicted to be.
    pub recall: Option<f64>,
    /// Harmonic mean of the two.
    pub f1: Option<f64>,
    /// Windows of this class.
    pub support: u64,
}

/// All figures of an evaluation, as printed and as `--json` gives them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Windows evaluated.
    pub windows: u64,
    /// Share classified right; 0 if there is no window.
    pub accuracy: f64,
    /// Mean precision of the classes that occur.
    pub macro_precision: f64,
    /// Mean recall of the classes that occur.
    pub macro_recall: f64,
    /// Mean F1 of the classes that occur.
    pub macro_f1: f64,
    /// Mean F1 weighted by support.
    pub weighted_f1: f64,
    /// Figures by class.
    pub classes: Vec<ClassMetrics>,
    /// `confusion[truth][predicted]`.
    pub confusion: Vec<Vec<u64>>,
}

impl Confusion {
    /// No window yet.
    pub fn new(classes: Vec<String>) -> Self {
        let counts = vec![vec![0; classes.len()]; classes.len()];
        Self { classes, counts }
    }

    /// Windows counted already: `counts[truth][predicted]`.
    ///
    /// # Errors
    /// [`ReportError::ClassCount`].
    pub fn from_counts(classes: Vec<String>, counts: Vec<Vec<u64>>) -> Result<Self, ReportError> {
        let expected = classes.len();
        let sizes = std::iter::once(counts.len()).chain(counts.iter().map(Vec::len));
        match sizes.into_iter().find(|&found| found != expected) {
            Some(found) => Err(ReportError::ClassCount { expected, found }),
            None => Ok(Self { classes, counts }),
        }
    }

    /// Counts one window.
    ///
    /// # Errors
    /// [`ReportError::ClassOutOfRange`].
    pub fn record(&mut self, truth: usize, predicted: usize) -> Result<(), ReportError> {
        self.check("true", truth)?;
        self.check("predicted", predicted)?;
        self.counts[truth][predicted] += 1;
        Ok(())
    }

    /// Adds another matrix over the same classes.
    ///
    /// # Errors
    /// [`ReportError::DifferentClasses`].
    pub fn add(&mut self, other: &Self) -> Result<(), ReportError> {
        if self.classes != other.classes {
            let (expected, found) = (self.classes.join(", "), other.classes.join(", "));
            return Err(ReportError::DifferentClasses { expected, found });
        }
        for (row, other) in self.counts.iter_mut().zip(&other.counts) {
            row.iter_mut().zip(other).for_each(|(count, other)| *count += other);
        }
        Ok(())
    }

    /// The classes' names.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// `counts()[truth][predicted]`.
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    /// Windows counted.
    pub fn windows(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Share classified right; 0 if there is no window.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes.len()).map(|class| self.counts[class][class]).sum();
        ratio(right, self.windows())
    }

    /// Everything that follows from the counts.
    pub fn metrics(&self) -> Metrics {
        let classes: Vec<_> = (0..self.classes.len()).map(|class| self.class_metrics(class)).collect();
        let weighted: f64 =
            classes.iter().filter_map(|class| class.f1.map(|f1| f1 * class.support as f64)).sum();
        let windows = self.windows();
        Metrics {
            windows,
            accuracy: self.accuracy(),
            macro_precision: mean(classes.iter().filter_map(|class| class.precision)),
            macro_recall: mean(classes.iter().filter_map(|class| class.recall)),
            macro_f1: mean(classes.iter().filter_map(|class| class.f1)),
            weighted_f1: if windows == 0 { 0.0 } else { weighted / windows as f64 },
            classes,
            confusion: self.counts.clone(),
        }
    }

    fn class_metrics(&self, class: usize) -> ClassMetrics {
        let right = self.counts[class][class];
        let support: u64 = self.counts[class].iter().sum();
        let predicted: u64 = self.counts.iter().map(|row| row[class]).sum();
        let occurs = support + predicted > 0;
        ClassMetrics {
            name: self.classes[class].clone(),
            precision: occurs.then(|| ratio(right, predicted)),
            recall: occurs.then(|| ratio(right, support)),
            f1: occurs.then(|| ratio(2 * right, support + predicted)),
            support,
        }
    }

    fn check(&self, what: &'static str, index: usize) -> Result<(), ReportError> {
        let classes = self.classes.len();
        if index < classes { Ok(()) } else { Err(ReportError::ClassOutOfRange { what, index, classes }) }
    }
}

impl Metrics {
    /// Precision, recall, F1 and support by class, then their averages.
    pub fn class_table(&self) -> Table {
        let mut table = Table::new(&[
            ("class", Align::Left),
            ("precision", Align::Right),
            ("recall", Align::Right),
            ("f1", Align::Right),
            ("support", Align::Right),
        ]);
        for (name, class) in self.short_names().into_iter().zip(&self.classes) {
            let figures = [class.precision, class.recall, class.f1].map(figure);
            table.row([name].into_iter().chain(figures).chain([class.support.to_string()]));
        }
        table.rule();
        let averages =
            [self.macro_precision, self.macro_recall, self.macro_f1].map(|value| figure(Some(value)));
        let name = ["macro average".to_owned()];
        table.row(name.into_iter().chain(averages).chain([self.windows.to_string()]));
        table
    }

    /// The confusion matrix, a row a true class; columns are numbered as rows are.
    pub fn confusion_table(&self) -> Table {
        let names: Vec<_> = self.classes.iter().map(|class| class.name.clone()).collect();
        confusion_table(&names, &self.confusion)
    }

    fn short_names(&self) -> Vec<String> {
        let names: Vec<_> = self.classes.iter().map(|class| class.name.as_str()).collect();
        shorten_all(&names, NAME_WIDTH)
    }
}

/// Accuracy and macro-F1 on one line, then the figures by class, then the matrix.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accuracy, macro_f1, windows, .. } = self;
        writeln!(f, "accuracy {accuracy:.4}, macro-F1 {macro_f1:.4} on {windows} windows\n")?;
        writeln!(f, "{}", self.class_table())?;
        writeln!(f, "confusion matrix: a row a true class, a column a predicted one\n")?;
        write!(f, "{}", self.confusion_table())
    }
}

fn confusion_table(classes: &[String], counts: &[Vec<u64>]) -> Table {
    let names: Vec<_> = classes.iter().map(String::as_str).collect();
    let numbers: Vec<_> = (0..classes.len()).map(|class| class.to_string()).collect();
    let columns = numbers.iter().map(|number| (number.as_str(), Align::Right));
    let headers: Vec<_> =
        [("", Align::Right), ("true class", Align::Left)].into_iter().chain(columns).collect();
    let mut table = Table::new(&headers);
    for ((number, name), row) in numbers.iter().zip(shorten_all(&names, NAME_WIDTH)).zip(counts) {
        table.row([number.clone(), name].into_iter().chain(row.iter().map(u64::to_string)));
    }
    table
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confusion(classes: &[&str], counts: &[&[u64]]) -> Confusion {
        let classes = classes.iter().map(|&class| class.to_owned()).collect();
        Confusion::from_counts(classes, counts.iter().map(|row| row.to_vec()).collect()).unwrap()
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "expected {expected}, found {found}");
    }

    #[test]
    fn figures_of_three_classes_by_hand() {
        let metrics = confusion(&["a", "b", "c"], &[&[3, 1, 0], &[2, 4, 0], &[1, 0, 9]]).metrics();
        assert_close(metrics.accuracy, 16.0 / 20.0);
        let expected = [(3.0 / 6.0, 3.0 / 4.0), (4.0 / 5.0, 4.0 / 6.0), (1.0, 9.0 / 10.0)];
        let mut f1s = Vec::new();
        for (class, (precision, recall)) in metrics.classes.iter().zip(expected) {
            assert_close(class.precision.unwrap(), precision);
            assert_close(class.recall.unwrap(), recall);
            f1s.push(2.0 * precision * recall / (precision + recall));
            assert_close(class.f1.unwrap(), *f1s.last().unwrap());
        }
        assert_close(metrics.macro_f1, f1s.iter().sum::<f64>() / 3.0);
        assert_close(metrics.weighted_f1, (4.0 * f1s[0] + 6.0 * f1s[1] + 10.0 * f1s[2]) / 20.0);
    }

    /// scikit-learn: y_true = [0,0,1,1], y_pred = [0,1,1,3], four classes: macro-F1 = mean(2/3, 1/2, 0), since
    /// class 3 is predicted and class 2 occurs nowhere.
    #[test]
    fn a_class_only_predicted_counts_as_zero_and_one_that_never_occurs_does_not_count() {
        let mut confusion = Confusion::new(["a", "b", "c", "d"].map(str::to_owned).to_vec());
        for (truth, predicted) in [(0, 0), (0, 1), (1, 1), (1, 3)] {
            confusion.record(truth, predicted).unwrap();
        }
        let metrics = confusion.metrics();
        assert_close(metrics.macro_f1, (2.0 / 3.0 + 0.5) / 3.0);
        assert_eq!(metrics.classes[2].f1, None);
        assert_eq!(metrics.classes[3].precision, Some(0.0));
        assert_eq!(metrics.classes[3].recall, Some(0.0));
    }

    #[test]
    fn nothing_evaluated_gives_zeros_and_never_a_nan() {
        let metrics = Confusion::new(vec!["a".into(), "b".into()]).metrics();
        assert_eq!((metrics.accuracy, metrics.macro_f1, metrics.weighted_f1), (0.0, 0.0, 0.0));
        let json = serde_json::to_value(&metrics).unwrap();
        assert_eq!(json["classes"][0]["f1"], serde_json::Value::Null);
        assert_eq!(json["confusion"], serde_json::json!([[0, 0], [0, 0]]));
    }

    #[test]
    fn an_index_out_of_range_is_an_error_and_counts_nothing() {
        let mut confusion = Confusion::new(vec!["a".into()]);
        let message = confusion.record(0, 1).unwrap_err().to_string();
        assert_eq!(message, "the predicted class index 1 is out of range: expected less than 1");
        assert_eq!(confusion.windows(), 0);
    }

    #[test]
    fn counts_of_other_classes_are_refused() {
        let names = || vec!["a".to_owned(), "b".to_owned()];
        let error = Confusion::from_counts(names(), vec![vec![1, 2]]).unwrap_err().to_string();
        assert_eq!(error, "a confusion matrix of 1 classes was counted, expected 2");
        assert!(Confusion::from_counts(names(), vec![vec![1, 2], vec![1, 2, 3]]).is_err());
    }

    #[test]
    fn shards_add_up() {
        let mut one = confusion(&["a", "b"], &[&[1, 2], &[3, 4]]);
        one.add(&one.clone()).unwrap();
        assert_eq!(one.counts(), [[2, 4], [6, 8]]);
        assert!(one.add(&confusion(&["a", "c"], &[&[0, 0], &[0, 0]])).is_err());
    }

    #[test]
    fn the_printed_report_lines_up() {
        let confusion =
            confusion(&["rest: laying on bed", "exercise: bicycle stress test"], &[&[12, 1], &[0, 1234]]);
        let expected = "\
accuracy 0.9992, macro-F1 0.9798 on 1247 windows

class                          precision  recall      f1  support
-----------------------------  ---------  ------  ------  -------
rest: laying on bed               1.0000  0.9231  0.9600       13
exercise: bicycle stress test     0.9992  1.0000  0.9996     1234
-----------------------------  ---------  ------  ------  -------
macro average                     0.9996  0.9615  0.9798     1247

confusion matrix: a row a true class, a column a predicted one

   true class                      0     1
-  -----------------------------  --  ----
0  rest: laying on bed            12     1
1  exercise: bicycle stress test   0  1234
";
        assert_eq!(confusion.metrics().to_string(), expected);
    }
}
