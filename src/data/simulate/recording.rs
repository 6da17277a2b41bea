//! One recording: a person in a scenario, made into 12-bit samples.

use std::f64::consts::TAU;

use super::ecg::{Morphology, Rhythm, ecg};
use super::noise::{Colour, Track};
use super::pcg::{Sounds, add_heart_sounds};
use super::rng::Rng;
use super::scenario::{Motion, Profile, Scenario};

/// Full scale of the converter is ±1; a millivolt of ECG, and a first heart sound of amplitude 1, take this much.
const ECG_SCALE: f64 = 0.22;
const PCG_SCALE: f64 = 0.16;

/// A person: what stays the same over all of their recordings.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) age: Option<u32>,
    pub(super) female: bool,
    resting_rate: f64,
    /// Fitness: a factor upon the rise of the heart rate.
    response: f64,
    /// Body habitus: factors upon all ECG and all heart sound amplitudes.
    gains: [f64; 2],
    /// Factors upon P, Q, R, S, T.
    waves: [f64; 5],
    /// Dominant frequencies of the two heart sounds, in hertz.
    frequencies: [f64; 2],
    /// Factor upon the second heart sound.
    second_sound: f64,
    /// How noisy this person's skin contact is.
    contact: f64,
}

impl Subject {
    /// Draws a person.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        Self {
            age: rng.chance(0.93).then(|| rng.between(22.0, 31.0) as u32),
            female: rng.chance(0.5),
            resting_rate: 65.0 + 7.0 * rng.normal(),
            response: rng.factor(0.10),
            gains: [rng.factor(0.22), rng.factor(0.22)],
            waves: [
                0.75 * rng.factor(0.25),
                rng.factor(0.3),
                rng.factor(0.1),
                rng.factor(0.25),
                rng.factor(0.2),
            ],
            frequencies: [rng.between(42.0, 56.0), rng.between(58.0, 78.0)],
            second_sound: rng.factor(0.2),
            contact: rng.factor(0.15),
        }
    }
}

/// Everything about a recording that is decided before its samples are made.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    pub(super) scenario: Scenario,
    pub(super) five_channels: bool,
    rhythm: Rhythm,
    morphology: Morphology,
    sounds: Sounds,
    /// Factors upon hiss, breath, muscle noise, wander, motion.
    levels: [f64; 5],
    /// Factor upon the cadence of steps or turns.
    pace: f64,
    /// Amplitude of the mains in millivolts.
    mains: f64,
    /// Fundamental frequency of the motor or pitch of the flywheel, in hertz.
    pitch: f64,
    gains: [f64; 2],
    rng: Rng,
}

/// The samples of a recording, each a 12-bit integer (value · 2048).
pub(super) struct Samples {
    pub(super) ecg: Vec<i16>,
    pub(super) pcg: Vec<i16>,
    /// AUX1, AUX2 and PCG2, where five channels were recorded.
    pub(super) auxiliary: Option<[Vec<i16>; 3]>,
}

impl Recording {
    /// Draws a recording of `seconds` seconds; all randomness that is left comes from `rng`.
    pub(super) fn draw(
        subject: &Subject,
        scenario: Scenario,
        seconds: f64,
        five_channels: bool,
        mut rng: Rng,
    ) -> Self {
        let profile = scenario.profile();
        let breathing = rng.between(profile.breathing[0], profile.breathing[1]);
        let shift = profile.rate_spread * rng.normal();
        let rate = |rise: f64| (subject.resting_rate + rise * subject.response + shift).clamp(42.0, 198.0);
        let mut heights = subject.waves;
        heights[3] *= profile.s_wave * rng.factor(0.1);
        heights[4] *= profile.t_wave * rng.factor(0.08);
        Self {
            scenario,
            five_channels,
            rhythm: Rhythm {
                rates: profile.rate_rise.map(rate),
                seconds,
                variability: profile.variability * rng.factor(0.2),
                breathing,
                low_to_high: profile.low_to_high,
            },
            morphology: Morphology { heights, baseline: 0.15 * rng.factor(0.3), breathing },
            sounds: Sounds {
                amplitudes: [profile.sounds[0], profile.sounds[1] * subject.second_sound],
                frequencies: subject.frequencies,
                respiratory: rng.between(0.08, 0.2),
                breathing,
                flow: 0.12,
            },
            levels: std::array::from_fn(|_| subject.contact * rng.factor(0.22)),
            pace: rng.factor(0.05),
            mains: 0.008 * rng.factor(0.6),
            pitch: rng.factor(0.12),
            gains: [subject.gains[0] * rng.factor(0.1), subject.gains[1] * rng.factor(0.15)],
            rng,
        }
    }

    /// Mean of the intended heart rate over the recording, in beats a minute.
    pub(super) fn mean_heart_rate(&self) -> f64 {
        0.5 * (self.rhythm.rates[0] + self.rhythm.rates[1])
    }

    /// Makes `count` samples a channel at `sampling_frequency` hertz.
    pub(super) fn samples(&self, count: usize, sampling_frequency: f64) -> Samples {
        let mut rng = self.rng.clone();
        let beats = self.rhythm.beats(&mut rng);
        let steps = self.step_times(&mut rng);
        let mut electric = ecg(&beats, &self.morphology, count, sampling_frequency);
        let mut track = Track { samples: &mut electric, sampling_frequency };
        self.disturb_ecg(&mut track, &steps, &mut rng);
        let mut ambient = vec![0.0; count];
        let mut track = Track { samples: &mut ambient, sampling_frequency };
        self.add_ambient(&mut track, &steps, &mut rng);
        let mut acoustic = ambient.clone();
        let mut track = Track { samples: &mut acoustic, sampling_frequency };
        add_heart_sounds(&mut track, &beats, &self.sounds, &mut rng);
        self.saturate_now_and_then(&mut track, &mut rng);
        let auxiliary = self.five_channels.then(|| {
            [
                quantise(&ambient, 0.5 * PCG_SCALE, &mut rng),
                quantise(&vec![0.0; count], 1.0, &mut rng),
                quantise(&vec![0.0; count], 1.0, &mut rng),
            ]
        });
        Samples {
            ecg: quantise(&electric, ECG_SCALE * self.gains[0], &mut rng),
            pcg: quantise(&acoustic, PCG_SCALE * self.gains[1], &mut rng),
            auxiliary,
        }
    }

    /// Level of the noises at t seconds, as a share of that at the end.
    fn growth(&self, profile: &Profile, t: f64) -> f64 {
        profile.onset + (1.0 - profile.onset) * (t / self.rhythm.seconds).clamp(0.0, 1.0)
    }

    /// Times of the footfalls in seconds; empty where nobody walks.
    fn step_times(&self, rng: &mut Rng) -> Vec<f64> {
        let Motion::Steps { cadence: [first, last], .. } = self.scenario.profile().motion else {
            return Vec::new();
        };
        let mut time = -rng.uniform();
        let mut times = Vec::new();
        while time < self.rhythm.seconds {
            times.push(time);
            let part = (time / self.rhythm.seconds).clamp(0.0, 1.0);
            time += (1.0 + 0.03 * rng.normal()) / (self.pace * (first + part * (last - first)));
        }
        times
    }

    /// Muscle noise, baseline wander, mains, and what motion does to the electrodes; all in millivolts.
    fn disturb_ecg(&self, track: &mut Track<'_>, steps: &[f64], rng: &mut Rng) {
        let profile = self.scenario.profile();
        let [_, _, muscle, wander, motion] = self.levels;
        track.noise(rng, Colour::Band(110.0, 0.5), |t| {
            0.7 * muscle * profile.muscle * self.growth(profile, t)
        });
        track.noise(rng, Colour::White, |t| 0.7 * muscle * profile.muscle * self.growth(profile, t));
        track.noise(rng, Colour::Low(0.6), |t| wander * profile.wander * self.growth(profile, t));
        track.tone(50.0, TAU * rng.uniform(), |_| self.mains);
        if let Motion::Pedals { cadence, .. } = profile.motion {
            let sway = 0.5 * motion * profile.wander;
            track.tone(cadence * self.pace, TAU * rng.uniform(), |t| sway * self.growth(profile, t));
        }
        for &step in steps {
            let size = motion * profile.wander * self.growth(profile, step) * rng.between(0.7, 1.3);
            track.thump(step, 0.12, 3.0, 1.5 * size);
        }
    }

    /// What a microphone hears besides the heart.
    fn add_ambient(&self, track: &mut Track<'_>, steps: &[f64], rng: &mut Rng) {
        let profile = self.scenario.profile();
        let [hiss, breath, _, _, motion] = self.levels;
        let growth = |t: f64| self.growth(profile, t);
        track.noise(rng, Colour::White, |t| hiss * profile.hiss * growth(t));
        track.noise(rng, Colour::Low(25.0), |t| 0.05 + 0.8 * motion * profile.hiss * growth(t));
        let (breathing, level) = (self.rhythm.breathing, 1.4 * breath * profile.breath);
        track.noise(rng, Colour::Band(420.0, 1.0), |t| {
            level * growth(t) * (TAU / 2.0 * breathing * t).sin().powi(2)
        });
        match profile.motion {
            Motion::Still => {}
            Motion::Steps { strength, motor, .. } => {
                let fundamental = 170.0 * self.pitch;
                track.hum(rng, fundamental, &[1.0, 0.7, 0.5, 0.35, 0.25], |t| 0.7 * motor * growth(t));
                for (n, &step) in steps.iter().enumerate() {
                    let side = if n % 2 == 0 { 1.1 } else { 0.9 };
                    let size = motion * strength * side * growth(step) * rng.factor(0.15);
                    // The microphone is pushed away first.
                    track.thump(step, 0.035, 32.0, -size);
                    track.click(rng, step, 0.012, 0.25 * size);
                }
            }
            Motion::Pedals { cadence, whirr } => {
                let (turn, phase) = (cadence * self.pace, TAU * rng.uniform());
                track.noise(rng, Colour::Band(1100.0 * self.pitch, 2.5), |t| {
                    motion * whirr * growth(t) * (1.0 + 0.5 * (2.0 * TAU * turn * t + phase).sin())
                });
                track.noise(rng, Colour::Low(40.0), |t| 1.5 * motion * whirr * growth(t));
            }
        }
    }

    /// Now and then a knock on the microphone drives the converter to its end.
    fn saturate_now_and_then(&self, track: &mut Track<'_>, rng: &mut Rng) {
        let probability = if matches!(self.scenario.profile().motion, Motion::Still) { 0.05 } else { 0.15 };
        if rng.chance(probability) {
            let onset = rng.between(0.0, self.rhythm.seconds);
            track.thump(onset, 0.02, 30.0, 1.6 / (PCG_SCALE * self.gains[1]));
        }
    }
}

/// The converter: scales, adds a small offset and half a step of noise, rounds to 1/2048 and clips to 12 bits.
fn quantise(values: &[f64], scale: f64, rng: &mut Rng) -> Vec<i16> {
    let offset = 40.0 * rng.between(-1.0, 1.0);
    let convert = |&value: &f64| {
        let counts = 2048.0 * scale * value + offset + 0.7 * rng.normal();
        counts.round().clamp(-2048.0, 2047.0) as i16
    };
    values.iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sound_follows_the_r_peak() {
        // Quiet recordings of three persons at rest: where the PCG's energy peaks after each R.
        for person in 0..3 {
            let subject = Subject::draw(&mut Rng::new(&[11, person]));
            let recording = Recording::draw(&subject, Scenario::Lying, 20.0, false, Rng::new(&[12, person]));
            let beats = recording.rhythm.beats(&mut recording.rng.clone());
            let samples = recording.samples(160_000, 8000.0);
            let inside: Vec<usize> =
                beats.iter().filter(|&&r| r > 0.2 && r < 19.0).map(|r| (r * 8000.0) as usize).collect();
            assert!(inside.len() > 12);
            let mut energy = vec![0.0; 4000];
            for &r in &inside {
                let top = (r - 160..r + 160).max_by_key(|&n| samples.ecg[n]).unwrap();
                assert!(top.abs_diff(r) <= 40, "R stands {top} where the beat is {r}");
                for (sum, n) in energy.iter_mut().zip(r - 800..) {
                    *sum += f64::from(samples.pcg[n]).powi(2);
                }
            }
            let smooth: Vec<f64> = energy.windows(160).map(|cut| cut.iter().sum()).collect();
            let peak = (0..2000).max_by(|&a, &b| smooth[a].total_cmp(&smooth[b])).unwrap();
            let delay = (peak as f64 + 80.0 - 800.0) / 8.0;
            assert!((20.0..80.0).contains(&delay), "the first sound follows R by {delay} ms");
        }
    }

    #[test]
    fn the_converter_has_twelve_bits() {
        let ramp: Vec<f64> = (0..1000).map(|n| f64::from(n - 500) / 250.0).collect();
        let samples = quantise(&ramp, 1.0, &mut Rng::new(&[1]));
        assert_eq!((samples[0], samples[999]), (-2048, 2047));
    }
}
