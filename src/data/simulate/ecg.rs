//! The electrocardiogram: a dynamical model whose trajectory circles a limit cycle once a heartbeat.
//!
//! P. E. McSharry, G. D. Clifford, L. Tarassenko and L. A. Smith, "A dynamical model for generating synthetic
//! electrocardiogram signals", IEEE Transactions on Biomedical Engineering 50 (2003) 289–294:
//!
//! ```text
//! ẋ = αx − ωy,  ẏ = αy + ωx,  α = 1 − √(x² + y²)
//! ż = − Σ_{i ∈ P,Q,R,S,T} aᵢ Δθᵢ exp(−Δθᵢ² / 2bᵢ²) − (z − z₀(t)),  Δθᵢ = (θ − θᵢ) mod 2π
//! ```
//!
//! A trajectory that starts on the cycle stays on it, so (x, y) is known in closed form: the angle θ advances
//! by 2π from one R peak to the next. Only z is integrated (Runge–Kutta, fourth order, 1 kHz). The angular
//! velocity comes from an RR tachogram whose power spectrum is the sum of two Gaussians, at 0.1 Hz (Mayer waves) and
//! at the breathing frequency (respiratory sinus arrhythmia). With α = √(rate/60), the widths bᵢ scale by α and the
//! angles of Q and S by α and of P and T by √α, so that the QT interval shortens with the heart rate as in the
//! authors' ECGSYN.

use std::f64::consts::{PI, TAU};

use super::rng::Rng;

/// The integration step of z, in seconds.
const STEP: f64 = 0.001;
/// Seconds integrated ahead of the first sample, so that z has forgotten where it started.
const WARM_UP: f64 = 3.0;
/// Millivolts for one unit of z: an R peak of about 1.1 mV.
const MILLIVOLTS: f64 = 30.0;
/// The published angles θᵢ in degrees, and aᵢ and bᵢ, for P, Q, R, S, T.
const ANGLES: [f64; 5] = [-70.0, -15.0, 0.0, 15.0, 100.0];
const HEIGHTS: [f64; 5] = [1.2, -5.0, 30.0, -7.5, 0.75];
const WIDTHS: [f64; 5] = [0.25, 0.1, 0.1, 0.1, 0.4];

/// How the heart beats during a recording.
#[derive(Clone, Debug)]
pub(super) struct Rhythm {
    /// Mean heart rate at the start and at the end, in beats a minute; between them it moves linearly.
    pub(super) rates: [f64; 2],
    /// Length of the recording in seconds.
    pub(super) seconds: f64,
    /// Standard deviation of the RR intervals as a share of their mean.
    pub(super) variability: f64,
    /// Breathing frequency in hertz, the centre of the tachogram's upper peak.
    pub(super) breathing: f64,
    /// Power of the 0.1 Hz peak divided by that of the breathing peak (0.5 in the paper, at rest).
    pub(super) low_to_high: f64,
}

impl Rhythm {
    /// Mean heart rate at t seconds, in beats a minute.
    pub(super) fn rate(&self, t: f64) -> f64 {
        let part = (t / self.seconds).clamp(0.0, 1.0);
        self.rates[0] + part * (self.rates[1] - self.rates[0])
    }

    /// The R peaks' times in seconds, from before the warm-up to past the end.
    pub(super) fn beats(&self, rng: &mut Rng) -> Vec<f64> {
        let tachogram = Tachogram::new(self, rng);
        let mut time = -WARM_UP - 2.0 * rng.uniform() - 2.0;
        let mut beats = vec![time];
        while time < self.seconds + 1.0 {
            let deviation = (self.variability * tachogram.at(time)).clamp(-0.4, 0.4);
            time += 60.0 / self.rate(time) * (1.0 + deviation);
            beats.push(time);
        }
        beats
    }
}

/// A Gaussian process of unit variance with a bimodal spectrum, as a sum of cosines with random phases.
struct Tachogram {
    /// Amplitude, angular frequency and phase of each cosine.
    cosines: Vec<[f64; 3]>,
}

impl Tachogram {
    fn new(rhythm: &Rhythm, rng: &mut Rng) -> Self {
        const SPACING: f64 = 1.0 / 128.0;
        const WIDTH: f64 = 0.01;
        let peak = |f: f64, centre: f64| (-0.5 * ((f - centre) / WIDTH).powi(2)).exp();
        let power = |f: f64| rhythm.low_to_high * peak(f, 0.1) + peak(f, rhythm.breathing);
        let mut cosines = Vec::new();
        let mut total = 0.0;
        for k in 1..=128 {
            let frequency = f64::from(k) * SPACING;
            let power = power(frequency);
            let phase = TAU * rng.uniform();
            if power > 1e-6 {
                total += power;
                cosines.push([(2.0 * power).sqrt(), TAU * frequency, phase]);
            }
        }
        cosines.iter_mut().for_each(|cosine| cosine[0] /= total.sqrt());
        Self { cosines }
    }

    fn at(&self, t: f64) -> f64 {
        self.cosines.iter().map(|[amplitude, omega, phase]| amplitude * (omega * t + phase).cos()).sum()
    }
}

/// What makes one person's waves differ from another's: factors upon the published heights aᵢ, and the baseline.
#[derive(Clone, Debug)]
pub(super) struct Morphology {
    /// Factors upon the heights of P, Q, R, S and T.
    pub(super) heights: [f64; 5],
    /// Amplitude of the breathing baseline z₀, in millivolts (0.15 in the paper).
    pub(super) baseline: f64,
    /// Breathing frequency in hertz.
    pub(super) breathing: f64,
}

/// The ECG in millivolts, `samples` values at `sampling_frequency` hertz, for R peaks at the times `beats`.
pub(super) fn ecg(
    beats: &[f64],
    morphology: &Morphology,
    samples: usize,
    sampling_frequency: f64,
) -> Vec<f64> {
    let steps = ((samples as f64 / sampling_frequency + WARM_UP) / STEP).ceil() as usize + 3;
    let z = integrate(beats, morphology, steps);
    (0..samples)
        .map(|n| {
            let position = (n as f64 / sampling_frequency + WARM_UP) / STEP;
            MILLIVOLTS * interpolate(&z, position)
        })
        .collect()
}

/// The five waves of one beat, scaled by its heart rate.
#[derive(Clone, Copy)]
struct Waves {
    angles: [f64; 5],
    heights: [f64; 5],
    widths: [f64; 5],
}

impl Waves {
    /// The waves at an RR interval of `interval` seconds.
    fn new(interval: f64, factors: &[f64; 5]) -> Self {
        let alpha = (1.0 / interval).sqrt();
        let scales = [alpha.sqrt(), alpha, 1.0, alpha, alpha.sqrt()];
        Self {
            angles: std::array::from_fn(|i| ANGLES[i].to_radians() * scales[i]),
            heights: std::array::from_fn(|i| HEIGHTS[i] * factors[i]),
            widths: WIDTHS.map(|width| width * alpha),
        }
    }

    /// Minus the sum of the waves' contributions to ż at the angle θ in (−π, π].
    fn slope(&self, theta: f64) -> f64 {
        let mut sum = 0.0;
        for i in 0..5 {
            let mut difference = theta - self.angles[i];
            if difference > PI {
                difference -= TAU;
            } else if difference < -PI {
                difference += TAU;
            }
            let ratio = difference / self.widths[i];
            if ratio.abs() < 6.0 {
                sum -= self.heights[i] * difference * (-0.5 * ratio * ratio).exp();
            }
        }
        sum
    }
}

/// Walks along the beats and gives the waves' slope at rising times.
struct Cycle<'a> {
    beats: &'a [f64],
    factors: &'a [f64; 5],
    current: usize,
    waves: Waves,
}

impl<'a> Cycle<'a> {
    fn new(beats: &'a [f64], factors: &'a [f64; 5]) -> Self {
        Self { beats, factors, current: 0, waves: Waves::new(beats[1] - beats[0], factors) }
    }

    fn slope(&mut self, t: f64) -> f64 {
        while self.current + 2 < self.beats.len() && t >= self.beats[self.current + 1] {
            self.current += 1;
            let interval = self.beats[self.current + 1] - self.beats[self.current];
            self.waves = Waves::new(interval, self.factors);
        }
        let (from, to) = (self.beats[self.current], self.beats[self.current + 1]);
        let theta = TAU * (t - from) / (to - from);
        self.waves.slope(if theta > PI { theta - TAU } else { theta })
    }
}

/// z at −[`WARM_UP`] and `steps` further times, [`STEP`] apart.
fn integrate(beats: &[f64], morphology: &Morphology, steps: usize) -> Vec<f64> {
    let mut cycle = Cycle::new(beats, &morphology.heights);
    let baseline = morphology.baseline / MILLIVOLTS;
    // The forcing does not depend on z: ż = g(t) − z.
    let mut forcing = |t: f64| cycle.slope(t) + baseline * (TAU * morphology.breathing * t).sin();
    let mut z = Vec::with_capacity(steps + 1);
    let (mut value, mut here) = (0.0, forcing(-WARM_UP));
    z.push(value);
    for n in 0..steps {
        let t = n as f64 * STEP - WARM_UP;
        let (half, next) = (forcing(t + 0.5 * STEP), forcing(t + STEP));
        let k1 = here - value;
        let k2 = half - (value + 0.5 * STEP * k1);
        let k3 = half - (value + 0.5 * STEP * k2);
        let k4 = next - (value + STEP * k3);
        value += STEP / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4);
        here = next;
        z.push(value);
    }
    z
}

/// Cubic interpolation (Catmull and Rom) between values one unit apart.
fn interpolate(values: &[f64], position: f64) -> f64 {
    let cell = (position as usize).clamp(1, values.len() - 3);
    let t = position - cell as f64;
    let [a, b, c, d] = [values[cell - 1], values[cell], values[cell + 1], values[cell + 2]];
    b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rhythm(rates: [f64; 2], variability: f64) -> Rhythm {
        Rhythm { rates, seconds: 120.0, variability, breathing: 0.25, low_to_high: 0.5 }
    }

    fn published() -> Morphology {
        Morphology { heights: [1.0; 5], baseline: 0.0, breathing: 0.25 }
    }

    #[test]
    fn rate_and_variability_are_those_asked_for() {
        let beats = rhythm([60.0, 60.0], 0.05).beats(&mut Rng::new(&[1]));
        let intervals: Vec<f64> = beats.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
        let variance = intervals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / intervals.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "mean RR {mean} s");
        assert!((variance.sqrt() - 0.05).abs() < 0.015, "deviation of RR {} s", variance.sqrt());
    }

    #[test]
    fn a_ramp_ends_where_it_should() {
        let beats = rhythm([80.0, 160.0], 0.0).beats(&mut Rng::new(&[2]));
        let near_end: Vec<f64> = beats.iter().copied().filter(|t| (115.0..120.0).contains(t)).collect();
        let rate = 60.0 * (near_end.len() - 1) as f64 / (near_end[near_end.len() - 1] - near_end[0]);
        assert!((rate - 158.0).abs() < 2.0, "rate {rate}");
    }

    #[test]
    fn the_model_has_pqrst_in_order() {
        let beats: Vec<f64> = (-6..12).map(f64::from).collect();
        let ecg = ecg(&beats, &published(), 8000, 1000.0);
        let at = |angle: f64| ecg[(4000.0 + angle / 360.0 * 1000.0).round() as usize];
        let isoelectric = at(-120.0);
        let (p, q, r, s, t) = (at(-70.0), at(-17.0), at(0.0), at(19.0), at(100.0));
        assert!(r - isoelectric > 0.8 && r < 1.6, "R {r} mV");
        assert!(p > isoelectric && t > p && r > t, "P {p} T {t} R {r} over {isoelectric}");
        assert!(q < isoelectric && s < isoelectric, "Q {q} S {s} under {isoelectric}");
    }

    #[test]
    fn the_step_is_fine_enough() {
        // Against the exact solution of ż = g − z by a far finer quadrature.
        let beats: Vec<f64> = (-12..12).map(|n| f64::from(n) * 0.5).collect();
        let morphology = published();
        let z = integrate(&beats, &morphology, 2000);
        let (mut exact, fine) = (0.0, STEP / 50.0);
        let mut cycle = Cycle::new(&beats, &morphology.heights);
        for n in 0..2000 * 50 {
            let forcing = cycle.slope((n as f64 + 0.5) * fine - WARM_UP);
            exact = exact * (-fine).exp() + forcing * (1.0 - (-fine).exp());
        }
        assert!((z[2000] - exact).abs() * MILLIVOLTS < 1e-4, "{} against {exact}", z[2000]);
    }

    #[test]
    fn the_t_wave_comes_earlier_at_a_faster_rate() {
        let peak_after_r = |interval: f64| {
            let beats: Vec<f64> = (-12..40).map(|n| f64::from(n) * interval).collect();
            let ecg = ecg(&beats, &published(), 4000, 1000.0);
            let r = (2.0 * interval * 1000.0) as usize;
            let (from, to) =
                (r + (0.15 * interval.sqrt() * 1000.0) as usize, r + (0.6 * interval * 1000.0) as usize);
            (from..to).max_by(|&a, &b| ecg[a].total_cmp(&ecg[b])).unwrap() - r
        };
        let (rest, exercise) = (peak_after_r(1.0), peak_after_r(0.45));
        assert!((250..310).contains(&rest), "T at {rest} ms at 60 a minute");
        assert!((120..190).contains(&exercise), "T at {exercise} ms at 133 a minute");
    }
}
