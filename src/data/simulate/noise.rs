//! Coloured noise, tones, footfalls and other disturbances, added into a buffer of samples.
//!
//! Filters are the biquads of Bristow-Johnson's *Audio EQ Cookbook*, run once over white noise.

use std::f64::consts::TAU;

use super::rng::Rng;

/// A second-order section, direct form II transposed, normalised so that a0 is 1.
#[derive(Clone, Debug)]
struct Biquad {
    b: [f64; 3],
    a: [f64; 2],
    state: [f64; 2],
}

impl Biquad {
    /// Band pass with gain 1 at the `centre` frequency (in cycles per sample) and the quality factor `q`.
    fn band_pass(centre: f64, q: f64) -> Self {
        let (sin, cos) = (TAU * centre).sin_cos();
        let alpha = sin / (2.0 * q);
        Self::normalised([alpha, 0.0, -alpha], [1.0 + alpha, -2.0 * cos, 1.0 - alpha])
    }

    /// Butterworth low pass with its corner at `cutoff` cycles per sample.
    fn low_pass(cutoff: f64) -> Self {
        let (sin, cos) = (TAU * cutoff).sin_cos();
        let alpha = sin / std::f64::consts::SQRT_2;
        let side = (1.0 - cos) / 2.0;
        Self::normalised([side, 2.0 * side, side], [1.0 + alpha, -2.0 * cos, 1.0 - alpha])
    }

    fn normalised(b: [f64; 3], a: [f64; 3]) -> Self {
        Self { b: b.map(|b| b / a[0]), a: [a[1] / a[0], a[2] / a[0]], state: [0.0; 2] }
    }

    fn step(&mut self, x: f64) -> f64 {
        let y = self.b[0] * x + self.state[0];
        self.state[0] = self.b[1] * x - self.a[0] * y + self.state[1];
        self.state[1] = self.b[2] * x - self.a[1] * y;
        y
    }
}

/// The spectrum of a noise.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    /// Flat up to the Nyquist frequency.
    White,
    /// Around a centre frequency in hertz, with a quality factor.
    Band(f64, f64),
    /// Below a corner frequency in hertz.
    Low(f64),
}

/// The buffer that disturbances are added to, with its sampling frequency in hertz.
pub(super) struct Track<'a> {
    pub(super) samples: &'a mut [f64],
    pub(super) sampling_frequency: f64,
}

impl Track<'_> {
    /// Adds noise of this colour; `level(t)` is its standard deviation at t seconds.
    pub(super) fn noise(&mut self, rng: &mut Rng, colour: Colour, level: impl Fn(f64) -> f64) {
        let rate = self.sampling_frequency;
        let relative = |frequency: f64| (frequency / rate).min(0.45);
        let (mut filter, gain) = match colour {
            Colour::White => (None, 1.0),
            Colour::Band(centre, q) => {
                let filter = Biquad::band_pass(relative(centre), q);
                // It is half of one minus an all-pass whose response starts with a[1], and so lets through
                // the share (1 - a[1]) / 2 of white noise's variance.
                let gain = (2.0 / (1.0 - filter.a[1])).sqrt();
                (Some(filter), gain)
            }
            Colour::Low(cutoff) => {
                let cutoff = relative(cutoff);
                // The equivalent noise bandwidth of a second-order Butterworth filter is 1.11 times its corner.
                (Some(Biquad::low_pass(cutoff)), (1.0 / (2.22 * cutoff)).sqrt())
            }
        };
        let mut current = 0.0;
        for (n, sample) in self.samples.iter_mut().enumerate() {
            if n % LEVEL_HOLD == 0 {
                current = gain * level(n as f64 / rate);
            }
            let white = rng.normal();
            *sample += current * filter.as_mut().map_or(white, |filter| filter.step(white));
        }
    }

    /// Adds a sum of harmonics of `fundamental` hertz: `amplitudes[k]` belongs to harmonic k + 1, each with a
    /// random phase; `level(t)` scales them all.
    pub(super) fn hum(
        &mut self,
        rng: &mut Rng,
        fundamental: f64,
        amplitudes: &[f64],
        level: impl Fn(f64) -> f64,
    ) {
        for (k, amplitude) in amplitudes.iter().enumerate() {
            let frequency = fundamental * (k + 1) as f64;
            if frequency < 0.45 * self.sampling_frequency {
                self.tone(frequency, rng.uniform() * TAU, |t| amplitude * level(t));
            }
        }
    }

    /// Adds one sine of `frequency` hertz.
    pub(super) fn tone(&mut self, frequency: f64, phase: f64, level: impl Fn(f64) -> f64) {
        // A rotating phasor: one complex product a sample instead of a sine.
        let (sin, cos) = (TAU * frequency / self.sampling_frequency).sin_cos();
        let (mut im, mut re) = phase.sin_cos();
        let mut current = 0.0;
        for (n, sample) in self.samples.iter_mut().enumerate() {
            if n % LEVEL_HOLD == 0 {
                current = level(n as f64 / self.sampling_frequency);
            }
            *sample += current * im;
            (re, im) = (re * cos - im * sin, re * sin + im * cos);
        }
    }

    /// Adds a Gaussian-windowed oscillation: `amplitude·exp(-(t-c)²/2σ²)·cos(2πf(t-c)+phase)`.
    pub(super) fn burst(&mut self, burst: Burst) {
        let Burst { centre, width, frequency, amplitude, phase } = burst;
        self.each_near(centre - 4.0 * width, centre + 4.0 * width, |t| {
            let d = t - centre;
            amplitude * (-0.5 * (d / width).powi(2)).exp() * (TAU * frequency * d + phase).cos()
        });
    }

    /// Adds a damped oscillation that starts at `onset` seconds and decays with time constant `decay`.
    pub(super) fn thump(&mut self, onset: f64, decay: f64, frequency: f64, amplitude: f64) {
        self.each_near(onset, onset + 6.0 * decay, |t| {
            let d = t - onset;
            amplitude * (-d / decay).exp() * (TAU * frequency * d).sin()
        });
    }

    /// Adds a burst of white noise that starts at `onset` seconds and decays with time constant `decay`.
    pub(super) fn click(&mut self, rng: &mut Rng, onset: f64, decay: f64, level: f64) {
        self.each_near(onset, onset + 6.0 * decay, |t| level * (-(t - onset) / decay).exp() * rng.normal());
    }

    /// Adds `value(t)` to the samples between two times in seconds, where they exist.
    pub(super) fn each_near(&mut self, from: f64, to: f64, mut value: impl FnMut(f64) -> f64) {
        let rate = self.sampling_frequency;
        let first = (from * rate).ceil().max(0.0) as usize;
        let end = ((to * rate).floor() + 1.0).max(0.0) as usize;
        let end = end.min(self.samples.len());
        if first < end {
            for (n, sample) in self.samples[first..end].iter_mut().enumerate() {
                *sample += value((first + n) as f64 / rate);
            }
        }
    }
}

/// Levels change slowly: they are asked for once in so many samples.
const LEVEL_HOLD: usize = 32;

/// A Gaussian-windowed oscillation: times in seconds, frequency in hertz, phase in radians.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    pub(super) centre: f64,
    pub(super) width: f64,
    pub(super) frequency: f64,
    pub(super) amplitude: f64,
    pub(super) phase: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(samples: &[f64]) -> f64 {
        (samples.iter().map(|x| x * x).sum::<f64>() / samples.len() as f64).sqrt()
    }

    #[test]
    fn noise_has_the_level_asked_for() {
        for colour in [Colour::White, Colour::Band(800.0, 1.0), Colour::Band(150.0, 2.0), Colour::Low(60.0)] {
            let mut samples = vec![0.0; 160_000];
            let mut track = Track { samples: &mut samples, sampling_frequency: 8000.0 };
            track.noise(&mut Rng::new(&[5]), colour, |_| 0.25);
            let found = deviation(&samples);
            assert!((found - 0.25).abs() < 0.015, "{colour:?}: {found}");
        }
    }

    #[test]
    fn a_tone_keeps_its_amplitude_and_frequency() {
        let mut samples = vec![0.0; 80_000];
        let mut track = Track { samples: &mut samples, sampling_frequency: 8000.0 };
        track.tone(50.0, 0.0, |_| 0.5);
        assert!((deviation(&samples) - 0.5 / 2f64.sqrt()).abs() < 1e-6);
        let crossings = samples.windows(2).filter(|pair| pair[0] < 0.0 && pair[1] >= 0.0).count();
        assert!((498..=500).contains(&crossings), "{crossings} cycles in ten seconds");
    }

    #[test]
    fn events_beyond_the_ends_are_cut() {
        let mut samples = vec![0.0; 100];
        let mut track = Track { samples: &mut samples, sampling_frequency: 1000.0 };
        let burst = Burst { centre: -1.0, width: 0.01, frequency: 50.0, amplitude: 1.0, phase: 0.0 };
        track.burst(burst);
        track.burst(Burst { centre: 5.0, ..burst });
        track.burst(Burst { centre: 0.1, ..burst });
        assert!(samples[..60].iter().all(|&x| x == 0.0));
        assert!(samples[99] > 0.5);
    }
}
