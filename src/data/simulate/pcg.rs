//! The phonocardiogram: first and second heart sounds locked to the ECG's beats.
//!
//! Each sound is two valve components a split apart (mitral and tricuspid; aortic and pulmonary), each component two
//! Gaussian-windowed oscillations. The first sound follows the R peak by the electromechanical delay, the second
//! ends systole: its time is Weissler's regression of electromechanical systole on the heart rate,
//! QS₂ = 546 − 2.1·rate ms (Weissler, Harris and Schoenfeld, Circulation 37 (1968) 149–159), up to 120 beats a minute, and
//! shrinks with the square root of the RR interval beyond, where the straight line no longer holds.
//! The first sound grows with exertion; the split of the second widens when breathing in.

use std::f64::consts::TAU;

use super::noise::{Burst, Colour, Track};
use super::rng::Rng;

/// Seconds from the start of Q to the peak of R.
const Q_TO_R: f64 = 0.040;

/// One person's heart sounds in one recording; amplitudes are relative to a first sound of 1.
#[derive(Clone, Debug)]
pub(super) struct Sounds {
    /// Amplitudes of the first and second sound at rest.
    pub(super) amplitudes: [f64; 2],
    /// Dominant frequencies of the first and second sound, in hertz.
    pub(super) frequencies: [f64; 2],
    /// How much of the amplitude follows the breathing.
    pub(super) respiratory: f64,
    /// Breathing frequency in hertz.
    pub(super) breathing: f64,
    /// Level of the systolic flow noise at full exertion.
    pub(super) flow: f64,
}

/// Seconds from an R peak to the middle of the mitral component, at this heart rate in beats a minute.
pub(super) fn first_sound_delay(rate: f64) -> f64 {
    0.048 - 0.018 * exertion(rate)
}

/// Seconds from an R peak to the middle of the aortic component, at this heart rate in beats a minute.
pub(super) fn second_sound_delay(rate: f64) -> f64 {
    let weissler = |rate: f64| 0.546 - 0.0021 * rate;
    let systole = if rate <= 120.0 { weissler(rate) } else { weissler(120.0) * (120.0 / rate).sqrt() };
    systole - Q_TO_R
}

/// Exertion in [0, 1]: 0 up to 60 beats a minute, 1 from 190 on.
fn exertion(rate: f64) -> f64 {
    ((rate - 60.0) / 130.0).clamp(0.0, 1.0)
}

/// Adds the heart sounds of R peaks at the times `beats` (seconds) to a track.
pub(super) fn add_heart_sounds(track: &mut Track<'_>, beats: &[f64], sounds: &Sounds, rng: &mut Rng) {
    for pair in beats.windows(2) {
        let (r, rate) = (pair[0], 60.0 / (pair[1] - pair[0]));
        let effort = exertion(rate);
        let breath = (TAU * sounds.breathing * r).sin();
        let loudness = |rng: &mut Rng| (1.0 + sounds.respiratory * breath) * rng.factor(0.08);
        let first = sounds.amplitudes[0] * (1.0 + 1.2 * effort) * loudness(rng);
        let second = sounds.amplitudes[1] * (1.0 + 0.3 * effort) * loudness(rng);
        let [low, high] = sounds.frequencies;
        let (s1, s2) = (r + first_sound_delay(rate), r + second_sound_delay(rate));
        let split = 0.018 + 0.014 * breath.max(0.0);
        valve(track, s1, low, 0.014, first, rng);
        valve(track, s1 + 0.024, 1.15 * low, 0.011, 0.55 * first, rng);
        valve(track, s2, high, 0.010, second, rng);
        valve(track, s2 + split, 0.85 * high, 0.010, 0.45 * second, rng);
        flow_noise(track, [s1, s2], sounds.flow * effort, rng);
    }
}

/// One valve's closure: a main oscillation and a shorter one nearly twice as fast.
fn valve(track: &mut Track<'_>, centre: f64, frequency: f64, width: f64, amplitude: f64, rng: &mut Rng) {
    let phase = -0.6 + 0.15 * rng.normal();
    track.burst(Burst { centre, width, frequency, amplitude, phase });
    let fast = Burst {
        centre: centre + 0.3 * width,
        width: 0.6 * width,
        frequency: 1.9 * frequency,
        amplitude: 0.45 * amplitude,
        phase: phase + 1.0,
    };
    track.burst(fast);
}

/// Turbulent ejection between the two sounds, band-limited about 180 Hz.
fn flow_noise(track: &mut Track<'_>, [s1, s2]: [f64; 2], level: f64, rng: &mut Rng) {
    if level < 1e-3 {
        return;
    }
    let rate = track.sampling_frequency;
    let mut samples = vec![0.0; ((s2 - s1) * rate) as usize];
    let length = samples.len() as f64 / rate;
    let mut local = Track { samples: &mut samples, sampling_frequency: rate };
    local.noise(rng, Colour::Band(180.0, 1.0), |t| level * (TAU / 2.0 * t / length).sin());
    let start = (s1 * rate).round();
    for (n, value) in samples.iter().enumerate() {
        let index = start + n as f64;
        if index >= 0.0 && (index as usize) < track.samples.len() {
            track.samples[index as usize] += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systole_shortens_and_leaves_a_diastole() {
        assert!((second_sound_delay(60.0) - 0.380).abs() < 1e-9);
        let mut last = f64::INFINITY;
        for rate in (40..=200).step_by(5).map(f64::from) {
            let (s1, s2, rr) = (first_sound_delay(rate), second_sound_delay(rate), 60.0 / rate);
            assert!((0.02..0.06).contains(&s1), "S1 {s1} s after R at {rate}");
            assert!(s2 < last && s2 - s1 > 0.12 && s2 < 0.8 * rr, "S2 {s2} s after R at {rate}");
            last = s2;
        }
    }

    #[test]
    fn energy_stands_at_the_two_sounds() {
        let sounds = Sounds {
            amplitudes: [1.0, 0.7],
            frequencies: [50.0, 70.0],
            respiratory: 0.0,
            breathing: 0.2,
            flow: 0.0,
        };
        let beats: Vec<f64> = (0..6).map(f64::from).collect();
        let mut samples = vec![0.0; 5000];
        let mut track = Track { samples: &mut samples, sampling_frequency: 1000.0 };
        add_heart_sounds(&mut track, &beats, &sounds, &mut Rng::new(&[3]));
        let energy =
            |from: usize, to: usize| samples[2000 + from..2000 + to].iter().map(|x| x * x).sum::<f64>();
        let total = energy(0, 1000);
        assert!(energy(0, 130) + energy(340, 460) > 0.999 * total);
        assert!(energy(0, 130) > energy(340, 460));
    }
}
