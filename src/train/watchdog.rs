//! Says which phase of a run has lasted too long, and what usually causes that, instead of silence. It never ends
//! anything.
//!
//! A **phase** begins with [`Watchdog::enter`] and ends when the guard is dropped. One that lasts longer than its limit
//! is reported in one line, and again each time its age has doubled. The limit of a step follows from the median of
//! the steps before it, and that of an evaluation from the steps it takes.
//!
//! ```
//! use tpu_train::train::watchdog::{Phase, Watchdog};
//! let watchdog = Watchdog::start();
//! let compiling = watchdog.enter(Phase::Compile);
//! drop(compiling);
//! ```

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The plugin's client is made.
    Initialise,
    /// A program is compiled.
    Compile,
    /// The first step of this process, the wait for its batch included.
    FirstStep,
    /// A later step.
    Step,
    /// The model is written.
    Save,
    /// Windows are evaluated, in so many batches.
    Evaluate {
        /// Batches.
        batches: u64,
    },
}

/// Steps that the median is taken over.
const STEPS: usize = 101;
/// A step may take so many times the median.
const TIMES_MEDIAN: u32 = 10;
/// No step is reported before this.
const SHORTEST_STEP: Duration = Duration::from_secs(60);
/// Between two looks at the clock.
const POLL: Duration = Duration::from_secs(1);

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Initialise => "starting the devices",
            Self::Compile => "compiling",
            Self::FirstStep => "the first step",
            Self::Step => "a step",
            Self::Save => "saving the model",
            Self::Evaluate { .. } => "the evaluation",
        }
    }

    /// What usually causes it, and what to look at.
    fn hint(self) -> &'static str {
        match self {
            Self::Initialise => {
                "a TPU slice of several hosts waits until a process runs on each of them, and a TPU in use until it \
                 is free: look at the other hosts' logs and at `tpu-train doctor`"
            }
            Self::Compile => {
                "large programs compile for minutes, and nothing is wrong while this process keeps a processor busy \
                 (`top`): else look at its memory; a smaller --batch-size or --window compiles faster"
            }
            Self::FirstStep => {
                "all hosts of a job take it together: one that failed, is still compiling or preparing data, or was \
                 never started holds up the others; look at every host's log"
            }
            Self::Step => {
                "a host that failed holds up the others, and so do slow disks behind the data or a host that swaps: \
                 look at every host's log, at `free` and `iostat`"
            }
            Self::Save => "the disk or bucket behind --out is slow or full: look at `df` and `mount`",
            Self::Evaluate { .. } => {
                "a host that failed holds up the others, and so do slow disks behind the data: look at every host's \
                 log"
            }
        }
    }

    /// How long it may take, given the median step so far.
    fn limit(self, median: Option<Duration>) -> Duration {
        let steps =
            |count: u32| median.map(|median| median.saturating_mul(count.saturating_mul(TIMES_MEDIAN)));
        match self {
            Self::Initialise | Self::Save => Duration::from_secs(60),
            Self::FirstStep => Duration::from_secs(120),
            Self::Compile => Duration::from_secs(300),
            Self::Step => steps(1).unwrap_or_default().max(SHORTEST_STEP),
            Self::Evaluate { batches } => {
                let all = steps(u32::try_from(batches).unwrap_or(u32::MAX));
                all.unwrap_or(Duration::from_secs(600)).max(2 * SHORTEST_STEP)
            }
        }
    }
}

/// The phase in hand and the steps before it. Times count from any one moment.
#[derive(Debug, Default)]
struct Watch {
    phase: Option<Phase>,
    since: Duration,
    /// Age at which the phase is reported next.
    due: Duration,
    steps: VecDeque<Duration>,
}

impl Watch {
    fn enter(&mut self, phase: Phase, now: Duration) {
        (self.phase, self.since) = (Some(phase), now);
        self.due = phase.limit(self.median());
    }

    fn leave(&mut self, now: Duration) {
        if self.phase.take() == Some(Phase::Step) {
            if self.steps.len() == STEPS {
                self.steps.pop_front();
            }
            self.steps.push_back(now.saturating_sub(self.since));
        }
    }

    /// The line to print now, if any.
    fn look(&mut self, now: Duration) -> Option<String> {
        let (phase, age) = (self.phase?, now.saturating_sub(self.since));
        if age < self.due {
            return None;
        }
        while self.due <= age {
            self.due = (2 * self.due).max(Duration::from_secs(1));
        }
        let usual = self.median().filter(|_| phase == Phase::Step);
        let usual =
            usual.map(|median| format!(", usually {:.1} s", median.as_secs_f64())).unwrap_or_default();
        Some(format!("watchdog: {} has lasted {}{usual}; {}", phase.name(), say(age), phase.hint()))
    }

    fn median(&self) -> Option<Duration> {
        let mut steps: Vec<Duration> = self.steps.iter().copied().collect();
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied()
    }
}

fn say(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

struct Shared {
    /// The watch, and whether it is over.
    state: Mutex<(Watch, bool)>,
    over: Condvar,
    clock: Clock,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Watch, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the phases of a run from a thread of its own, which ends with it.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A phase under way; dropping it ends the phase.
pub struct Guard<'a> {
    shared: &'a Shared,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let now = (self.shared.clock)();
        self.shared.lock().0.leave(now);
    }
}

impl Watchdog {
    /// Starts a watchdog that prints on standard error.
    pub fn start() -> Self {
        let beginning = Instant::now();
        // On a terminal a progress bar may stand on the line.
        let line_end = if std::io::stderr().is_terminal() { "\n" } else { "" };
        Self::with(POLL, Box::new(move || beginning.elapsed()), move |line| eprintln!("{line_end}{line}"))
    }

    fn with(poll: Duration, clock: Clock, print: impl Fn(String) + Send + 'static) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), over: Condvar::new(), clock });
        let watched = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut state = watched.lock();
            while !state.1 {
                if let Some(line) = state.0.look((watched.clock)()) {
                    print(line);
                }
                let waited = watched.over.wait_timeout(state, poll);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// A phase begins; it ends with the guard. Phases do not nest.
    #[must_use = "the phase ends when the guard is dropped"]
    pub fn enter(&self, phase: Phase) -> Guard<'_> {
        let now = (self.shared.clock)();
        self.shared.lock().0.enter(phase, now);
        Guard { shared: &self.shared }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().1 = true;
        self.shared.over.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_phase_is_reported_at_its_limit_and_whenever_its_age_has_doubled() {
        let mut watch = Watch::default();
        watch.enter(Phase::Initialise, s(1000));
        let reported: Vec<u64> = (0..=500).filter(|&age| watch.look(s(1000 + age)).is_some()).collect();
        assert_eq!(reported, [60, 120, 240, 480]);
        watch.leave(s(1500));
        assert_eq!(watch.look(s(9000)), None, "no phase is under way");
    }

    #[test]
    fn a_late_look_reports_once() {
        let mut watch = Watch::default();
        watch.enter(Phase::Compile, s(0));
        let line = watch.look(s(3700)).unwrap();
        assert!(line.starts_with("watchdog: compiling has lasted 61 min; "), "{line}");
        assert_eq!(line.lines().count(), 1);
        assert_eq!(watch.look(s(3701)), None);
        assert!(watch.look(s(4800)).is_some());
    }

    #[test]
    fn steps_are_held_against_the_median_of_those_before() {
        let mut watch = Watch::default();
        let mut now = s(0);
        // One slow step among many does not move the median.
        for seconds in [20, 20, 500, 20, 20] {
            watch.enter(Phase::Step, now);
            now += s(seconds);
            watch.leave(now);
        }
        watch.enter(Phase::Step, now);
        assert_eq!(watch.look(now + s(199)), None);
        let line = watch.look(now + s(200)).unwrap();
        assert!(line.contains("a step has lasted 3 min, usually 20.0 s"), "{line}");
        watch.leave(now + s(201));

        watch.enter(Phase::Evaluate { batches: 30 }, now);
        assert_eq!(watch.look(now + s(5999)), None);
        assert!(watch.look(now + s(6000)).is_some());
    }

    #[test]
    fn quick_steps_are_given_a_minute() {
        let mut watch = Watch::default();
        for step in 0..300 {
            watch.enter(Phase::Step, s(step));
            watch.leave(s(step) + Duration::from_millis(5));
        }
        assert_eq!(watch.steps.len(), STEPS);
        watch.enter(Phase::Step, s(300));
        assert_eq!(watch.look(s(359)), None);
        assert!(watch.look(s(360)).is_some());
    }

    #[test]
    fn the_thread_prints_while_a_phase_lasts_and_ends_with_the_watchdog() {
        let time = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&time);
        let (sender, lines) = channel();
        let watchdog = Watchdog::with(
            Duration::from_millis(1),
            Box::new(move || s(clock.load(Ordering::SeqCst))),
            move |line| sender.send(line).unwrap(),
        );
        let saving = watchdog.enter(Phase::Save);
        time.store(61, Ordering::SeqCst);
        let line = lines.recv_timeout(s(60)).unwrap();
        assert!(line.contains("saving the model has lasted 61 s") && line.contains("`df`"), "{line}");
        drop(saving);
        time.store(1_000_000, Ordering::SeqCst);
        drop(watchdog);
        assert_eq!(lines.iter().count(), 0, "the phase was over, and so is the thread");
    }
}
