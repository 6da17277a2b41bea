//! The progress bar, in the style Keras users know.
//!
//! ```text
//! Epoch 3/25
//!  5/42 ━━━━━━━━━━━━━━━━━━━━ 12s 320ms/step - accuracy: 0.4531 - loss: 1.6012 - 48.2 windows/s
//! ```
//! On a terminal the line is redrawn in place; the time is what is left, and, once the epoch is over, what it
//! took. Elsewhere (a log file) an epoch is one plain line at its end, and one more each ten seconds meanwhile.
//! Times a step, and windows a second, leave the epoch's first step out: it may hold the compilation.
//!
//! ```
//! use tpu_train::report::progress::Progress;
//! let mut progress = Progress::new(Vec::new(), None, false);
//! progress.begin_epoch(1, 1, 2);
//! progress.step(1, 32, &[("accuracy", 0.5), ("loss", 1.0)]);
//! progress.step(2, 64, &[("accuracy", 0.75), ("loss", 0.5)]);
//! progress.end_epoch(&[("accuracy", 0.75), ("loss", 0.5), ("val_accuracy", 0.7), ("val_loss", 0.6)]);
//! assert!(String::from_utf8(progress.into_inner()).unwrap().contains("val_loss: 0.6000"));
//! ```

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

const BAR: usize = 20;
const SHORT_BAR: usize = 8;
const REDRAW: Duration = Duration::from_millis(50);
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_WIDTH: usize = 80;
const CLEAR_LINE: &str = "\r\x1b[2K";
const GREEN: &str = "\x1b[32m";
const GREY: &str = "\x1b[90m";
const RESET: &str = "\x1b[0m";

/// What a progress line says.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Steps done.
    pub step: u64,
    /// Steps of the epoch.
    pub steps: u64,
    /// Time left, or, at the end of an epoch, taken; `None` while unknown.
    pub time: Option<Duration>,
    /// Time a step takes; `None` while unknown.
    pub step_time: Option<Duration>,
    /// Names and values, in order.
    pub metrics: &'a [(&'a str, f64)],
    /// Training windows a second; `None` while unknown.
    pub windows_per_second: Option<f64>,
}

/// How a progress line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Most characters a line may have; what does not fit is left out, least important first.
    pub width: usize,
    /// Whether to colour the bar.
    pub color: bool,
    /// Whether to draw the bar.
    pub bar: bool,
}

/// A progress line, without line end.
pub fn format_line(line: &Line<'_>, style: Style) -> String {
    let digits = line.steps.to_string().len();
    let count = format!("{:>digits$}/{}", line.step, line.steps);
    let times = format_times(line);
    let metrics: String = line.metrics.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = write!(text, " - {name}: {}", format_metric(*value));
        text
    });
    let rate = line.windows_per_second.map_or_else(String::new, |rate| format!(" - {rate:.1} windows/s"));
    let full = if style.bar { BAR } else { 0 };
    // Least important first: the length of the bar, the rate, the bar.
    let choices = [(full, rate.as_str()), (full.min(SHORT_BAR), &rate), (full.min(SHORT_BAR), ""), (0, "")];
    let length = |(bar, rate): &(usize, &str)| {
        let bar = if *bar == 0 { 0 } else { bar + 1 };
        [&count, &times, &metrics, *rate].map(|part| part.chars().count()).iter().sum::<usize>() + bar
    };
    let (bar, rate) = choices.into_iter().find(|choice| length(choice) <= style.width).unwrap_or((0, ""));
    if bar == 0 {
        return format!("{count}{times}{metrics}{rate}").chars().take(style.width).collect();
    }
    format!("{count} {}{times}{metrics}{rate}", format_bar(line.step, line.steps, bar, style.color))
}

fn format_bar(step: u64, steps: u64, width: usize, color: bool) -> String {
    let share = if steps == 0 { 1.0 } else { (step as f64 / steps as f64).min(1.0) };
    let done = (share * width as f64) as usize;
    let left = width - done;
    if color {
        format!("{GREEN}{}{GREY}{}{RESET}", "━".repeat(done), "━".repeat(left))
    } else {
        format!("{}{}", "━".repeat(done), "─".repeat(left))
    }
}

fn format_times(line: &Line<'_>) -> String {
    let time = line.time.map(format_duration);
    let step_time = line.step_time.map(|time| format!("{}/step", format_step_time(time)));
    [time, step_time].into_iter().flatten().fold(String::new(), |text, part| text + " " + &part)
}

/// Seconds, or minutes and seconds, or hours, minutes and seconds: `12s`, `2:05`, `1:02:05`.
fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}:{:02}", seconds % 60),
        _ => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
    }
}

fn format_step_time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        1.0.. => format!("{seconds:.0}s"),
        1e-3.. => format!("{:.0}ms", seconds * 1e3),
        _ => format!("{:.0}us", seconds * 1e6),
    }
}

/// Four decimals; a value that would lose its digits so is written with an exponent.
fn format_metric(value: f64) -> String {
    if value == 0.0 || value.abs() > 1e-3 || !value.is_finite() {
        format!("{value:.4}")
    } else {
        format!("{value:.4e}")
    }
}

/// A step's figures.
#[derive(Clone, Copy, Debug)]
struct Mark {
    step: u64,
    windows: u64,
    elapsed: Duration,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    epochs: u64,
    steps: u64,
    start: Instant,
    /// The first step seen.
    first: Option<Mark>,
    last: Option<Mark>,
    written: Duration,
}

/// Draws the progress of a training run.
#[derive(Debug)]
pub struct Progress<W: Write> {
    output: W,
    /// Width of the terminal; `None` if it is none.
    terminal: Option<usize>,
    color: bool,
    epoch: Option<Epoch>,
    /// What stands on the terminal's line.
    drawn: String,
}

impl Progress<Stderr> {
    /// Draws on standard error. `NO_COLOR` and `TERM=dumb` are respected.
    pub fn stderr() -> Self {
        let output = io::stderr();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let terminal = (output.is_terminal() && !dumb).then(|| {
            terminal_size::terminal_size_of(&output).map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0))
        });
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self::new(output, terminal, color)
    }
}

impl<W: Write> Progress<W> {
    /// Draws on `output`, a terminal so many characters wide, or `None` for anything else.
    ///
    /// Failures to write are ignored: training goes on without its bar.
    pub fn new(output: W, terminal: Option<usize>, color: bool) -> Self {
        Self { output, terminal, color, epoch: None, drawn: String::new() }
    }

    /// Gives the output back.
    pub fn into_inner(self) -> W {
        self.output
    }

    /// An epoch begins. `number` counts from 1.
    pub fn begin_epoch(&mut self, number: u64, epochs: u64, steps: u64) {
        self.begin_epoch_at(number, epochs, steps, Instant::now());
    }

    /// `step` steps of the epoch are done; `windows` is how many windows they trained on, `metrics` are the
    /// epoch's so far.
    pub fn step(&mut self, step: u64, windows: u64, metrics: &[(&str, f64)]) {
        let elapsed = self.epoch.as_ref().map_or(Duration::ZERO, |epoch| epoch.start.elapsed());
        self.step_at(step, windows, metrics, elapsed);
    }

    /// The epoch is over; `metrics` are its final ones, those of the validation included.
    pub fn end_epoch(&mut self, metrics: &[(&str, f64)]) {
        let elapsed = self.epoch.as_ref().map_or(Duration::ZERO, |epoch| epoch.start.elapsed());
        self.end_epoch_at(metrics, elapsed);
    }

    /// Prints a line of text without disturbing the bar.
    pub fn message(&mut self, text: &str) {
        if self.drawn.is_empty() {
            self.put(&format!("{text}\n"));
        } else {
            self.put(&format!("{CLEAR_LINE}{text}\n{}", self.drawn));
        }
    }

    fn begin_epoch_at(&mut self, number: u64, epochs: u64, steps: u64, start: Instant) {
        self.leave_line();
        if self.terminal.is_some() {
            self.put(&format!("Epoch {number}/{epochs}\n"));
        }
        let written = Duration::ZERO;
        self.epoch = Some(Epoch { number, epochs, steps, start, first: None, last: None, written });
    }

    fn step_at(&mut self, step: u64, windows: u64, metrics: &[(&str, f64)], elapsed: Duration) {
        let Some(epoch) = &mut self.epoch else { return };
        let mark = Mark { step, windows, elapsed };
        let first = epoch.first.is_none();
        epoch.first.get_or_insert(mark);
        epoch.last = Some(mark);
        let interval = if self.terminal.is_some() { REDRAW } else { PLAIN_INTERVAL };
        let due = elapsed.saturating_sub(epoch.written) >= interval;
        if due || first && self.terminal.is_some() {
            epoch.written = elapsed;
            self.draw(metrics, None);
        }
    }

    fn end_epoch_at(&mut self, metrics: &[(&str, f64)], elapsed: Duration) {
        self.draw(metrics, Some(elapsed));
        self.leave_line();
        self.epoch = None;
    }

    /// Draws the epoch's line; `total` is the time it took, if it is over.
    fn draw(&mut self, metrics: &[(&str, f64)], total: Option<Duration>) {
        let Some(epoch) = &self.epoch else { return };
        let (step_time, windows_per_second) = epoch.rates();
        let step = epoch.last.map_or(0, |mark| mark.step);
        let left = u32::try_from(epoch.steps.saturating_sub(step)).unwrap_or(u32::MAX);
        let time = total.or_else(|| step_time.map(|time| time.saturating_mul(left)));
        let line = Line { step, steps: epoch.steps, time, step_time, metrics, windows_per_second };
        if let Some(width) = self.terminal {
            // The last column stays free: some terminals wrap as soon as it is filled.
            let style = Style { width: width.saturating_sub(1), color: self.color, bar: true };
            self.drawn = format_line(&line, style);
            self.put(&format!("{CLEAR_LINE}{}", self.drawn));
        } else {
            let style = Style { width: usize::MAX, color: false, bar: false };
            let text = format!("Epoch {}/{}: {}\n", epoch.number, epoch.epochs, format_line(&line, style));
            self.put(&text);
        }
    }

    fn leave_line(&mut self) {
        if !self.drawn.is_empty() {
            self.put("\n");
            self.drawn.clear();
        }
    }

    fn put(&mut self, text: &str) {
        // A closed standard error must not end a training run.
        let _ = self.output.write_all(text.as_bytes()).and_then(|()| self.output.flush());
    }
}

impl Epoch {
    /// Time a step takes, and windows a second, both without the first step unless it is the only one.
    fn rates(&self) -> (Option<Duration>, Option<f64>) {
        let (Some(first), Some(last)) = (self.first, self.last) else { return (None, None) };
        let from = if last.step > first.step {
            first
        } else {
            Mark { step: 0, windows: 0, elapsed: Duration::ZERO }
        };
        let seconds = last.elapsed.saturating_sub(from.elapsed).as_secs_f64();
        let steps = last.step.saturating_sub(from.step);
        let windows = last.windows.saturating_sub(from.windows);
        let step_time = (steps > 0).then(|| Duration::from_secs_f64(seconds / steps as f64));
        (step_time, (seconds > 0.0).then(|| windows as f64 / seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &[(&str, f64)] = &[("accuracy", 0.4531), ("loss", 1.6012)];

    fn line() -> Line<'static> {
        Line {
            step: 5,
            steps: 42,
            time: Some(Duration::from_secs(12)),
            step_time: Some(Duration::from_millis(320)),
            metrics: METRICS,
            windows_per_second: Some(48.2),
        }
    }

    fn style(width: usize) -> Style {
        Style { width, color: false, bar: true }
    }

    fn drawn(progress: Progress<Vec<u8>>) -> String {
        String::from_utf8(progress.into_inner()).unwrap()
    }

    #[test]
    fn a_line_looks_as_keras_users_know_it() {
        assert_eq!(
            format_line(&line(), style(120)),
            " 5/42 ━━────────────────── 12s 320ms/step - accuracy: 0.4531 - loss: 1.6012 - 48.2 windows/s"
        );
        let colored = format_line(&line(), Style { color: true, ..style(120) });
        assert!(colored.contains("\x1b[32m━━\x1b[90m━━━━━━━━━━━━━━━━━━\x1b[0m"));
    }

    #[test]
    fn a_narrow_terminal_loses_the_least_important_first() {
        for width in 0..130 {
            let text = format_line(&line(), style(width));
            assert!(text.chars().count() <= width, "{width}: {text}");
        }
        let at = |width| format_line(&line(), style(width));
        assert_eq!(
            at(80),
            " 5/42 ──────── 12s 320ms/step - accuracy: 0.4531 - loss: 1.6012 - 48.2 windows/s"
        );
        assert_eq!(at(65), " 5/42 ──────── 12s 320ms/step - accuracy: 0.4531 - loss: 1.6012");
        assert_eq!(at(60), " 5/42 12s 320ms/step - accuracy: 0.4531 - loss: 1.6012");
    }

    #[test]
    fn times_and_metrics_keep_their_digits() {
        let seconds = |seconds| format_duration(Duration::from_secs_f64(seconds));
        assert_eq!(
            [seconds(0.2), seconds(59.4), seconds(125.0), seconds(3725.0)],
            ["0s", "59s", "2:05", "1:02:05"]
        );
        let step = |seconds| format_step_time(Duration::from_secs_f64(seconds));
        assert_eq!([step(2.4), step(0.32), step(45e-6)], ["2s", "320ms", "45us"]);
        let found = [0.0, 0.9, 1e-4, f64::NAN].map(format_metric);
        assert_eq!(found, ["0.0000", "0.9000", "1.0000e-4", "NaN"]);
    }

    #[test]
    fn a_terminal_sees_one_line_redrawn() {
        let mut progress = Progress::new(Vec::new(), Some(100), false);
        progress.begin_epoch_at(3, 25, 4, Instant::now());
        // The first step takes ten seconds (it compiles); the others half a second each.
        for (step, seconds) in [(1, 10.0), (2, 10.5), (3, 11.0)] {
            progress.step_at(step, step * 24, METRICS, Duration::from_secs_f64(seconds));
        }
        progress.step_at(3, 72, METRICS, Duration::from_secs_f64(11.01)); // too soon to draw again
        progress.end_epoch_at(&[("val_loss", 1.5)], Duration::from_secs(12));
        let text = drawn(progress);
        let lines: Vec<_> = text.split(CLEAR_LINE).collect();
        assert_eq!(lines[0], "Epoch 3/25\n");
        assert_eq!(lines.len(), 5, "{text:?}");
        let expected =
            "3/4 ━━━━━━━━━━━━━━━───── 1s 500ms/step - accuracy: 0.4531 - loss: 1.6012 - 48.0 windows/s";
        assert_eq!(lines[3], expected);
        assert_eq!(lines[4], "3/4 ━━━━━━━━━━━━━━━───── 12s 505ms/step - val_loss: 1.5000 - 47.5 windows/s\n");
    }

    #[test]
    fn a_log_file_sees_a_line_an_epoch_and_one_each_ten_seconds() {
        let mut progress = Progress::new(Vec::new(), None, true);
        for epoch in 1..=2 {
            progress.begin_epoch_at(epoch, 2, 30, Instant::now());
            for step in 1..=30 {
                let seconds = Duration::from_millis(step * if epoch == 1 { 800 } else { 100 });
                progress.step_at(step, step * 8, METRICS, seconds);
            }
            progress.end_epoch_at(METRICS, Duration::from_secs(30));
        }
        let text = drawn(progress);
        assert!(!text.contains(['\r', '\x1b', '━']), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].starts_with("Epoch 1/2: 13/30 14s 800ms/step"), "{text}");
        assert_eq!(
            lines[3],
            "Epoch 2/2: 30/30 30s 100ms/step - accuracy: 0.4531 - loss: 1.6012 - 80.0 windows/s"
        );
    }

    #[test]
    fn a_message_leaves_the_bar_whole() {
        let mut progress = Progress::new(Vec::new(), Some(100), false);
        progress.begin_epoch_at(1, 1, 2, Instant::now());
        progress.step_at(1, 8, METRICS, Duration::from_secs(1));
        progress.message("record 12 is constant");
        let text = drawn(progress);
        let bar = "1/2 ━━━━━━━━━━────────── 1s 1s/step - accuracy: 0.4531 - loss: 1.6012 - 8.0 windows/s";
        assert_eq!(text, format!("Epoch 1/1\n{CLEAR_LINE}{bar}{CLEAR_LINE}record 12 is constant\n{bar}"));
    }
}
