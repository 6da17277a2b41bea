//! The six scenarios of EPHNOGRAM, and what each does to heart, breath and sensors.
//!
//! The figures are chosen so that the classes can be learnt and overlap between persons: rest differs from exercise at
//! a glance; lying from sitting, walking from the treadmill test, pedalling from the bicycle test only by degree.

/// What the person did while being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scenario {
    /// Class 1: laying on a bed.
    Lying,
    /// Class 2: sitting on an armchair.
    Sitting,
    /// Class 3: walking on a treadmill at 3.7 km/h.
    Walking,
    /// Class 4: pedalling a stationary bicycle at constant load.
    Pedaling,
    /// Class 5: a bicycle stress test, the load rising through the recording.
    BicycleStress,
    /// Class 6: a Bruce protocol stress test, speed and slope of the treadmill rising through the recording.
    BruceTreadmill,
}

impl Scenario {
    /// All six, in the order of their classes.
    pub const ALL: [Self; 6] = [
        Self::Lying,
        Self::Sitting,
        Self::Walking,
        Self::Pedaling,
        Self::BicycleStress,
        Self::BruceTreadmill,
    ];

    /// The text of the spreadsheet's column `Recording Scenario`, with the data set's own trailing blank in one.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Lying => "Rest: laying on bed",
            Self::Sitting => "Rest: sitting on armchair",
            Self::Walking => "Exercise: walking at constant speed (3.7 km/h) ",
            Self::Pedaling => "Exercise: pedaling a stationary bicycle",
            Self::BicycleStress => "Exercise: bicycle stress test",
            Self::BruceTreadmill => "Exercise: Bruce protocol treadmill stress test",
        }
    }

    /// What this scenario does to the signals.
    pub(super) fn profile(self) -> &'static Profile {
        match self {
            Self::Lying => &LYING,
            Self::Sitting => &SITTING,
            Self::Walking => &WALKING,
            Self::Pedaling => &PEDALING,
            Self::BicycleStress => &BICYCLE_STRESS,
            Self::BruceTreadmill => &BRUCE_TREADMILL,
        }
    }
}

/// What a body in motion adds to the signals.
#[derive(Clone, Copy, Debug)]
pub(super) enum Motion {
    /// Nothing but a rare shift of the body.
    Still,
    /// Footfalls on a treadmill with a humming motor: steps a second at the start and at the end.
    Steps {
        /// Steps a second at the start and at the end.
        cadence: [f64; 2],
        /// Strength of a footfall in the PCG.
        strength: f64,
        /// Level of the motor's hum in the PCG.
        motor: f64,
    },
    /// Pedalling: turns a second, and the level of the flywheel's whirr in the PCG.
    Pedals {
        /// Turns of the crank a second.
        cadence: f64,
        /// Level of the flywheel's whirr in the PCG.
        whirr: f64,
    },
}

/// Means over persons; each person and recording varies about them. PCG levels are relative to a first sound
/// of 1, ECG levels in millivolts.
#[derive(Debug)]
pub(super) struct Profile {
    /// Heart rate over the person's resting rate at the start and at the end, in beats a minute.
    pub(super) rate_rise: [f64; 2],
    /// Standard deviation of that rise among recordings.
    pub(super) rate_spread: f64,
    /// Standard deviation of the RR intervals as a share of their mean.
    pub(super) variability: f64,
    /// Power of the tachogram's 0.1 Hz peak over that at the breathing frequency.
    pub(super) low_to_high: f64,
    /// Breaths a second, lowest and highest.
    pub(super) breathing: [f64; 2],
    /// Factors of posture upon the first and second heart sound.
    pub(super) sounds: [f64; 2],
    /// Factor of posture and exertion upon the S wave, which deepens under load.
    pub(super) s_wave: f64,
    /// Factor of posture and exertion upon the T wave.
    pub(super) t_wave: f64,
    /// Broadband noise of the PCG: cloth, air, amplifier.
    pub(super) hiss: f64,
    /// Sound of breathing in the PCG.
    pub(super) breath: f64,
    /// Muscle noise of the ECG.
    pub(super) muscle: f64,
    /// Slow wander of the ECG's baseline by breathing and movement.
    pub(super) wander: f64,
    /// Level of the noises at the start as a share of that at the end.
    pub(super) onset: f64,
    /// What motion adds.
    pub(super) motion: Motion,
}

const LYING: Profile = Profile {
    rate_rise: [-3.0, -3.0],
    rate_spread: 3.0,
    variability: 0.060,
    low_to_high: 0.5,
    breathing: [0.18, 0.27],
    sounds: [0.85, 0.85],
    s_wave: 0.6,
    t_wave: 1.1,
    hiss: 0.015,
    breath: 0.010,
    muscle: 0.008,
    wander: 0.03,
    onset: 1.0,
    motion: Motion::Still,
};

const SITTING: Profile = Profile {
    rate_rise: [7.0, 7.0],
    rate_spread: 4.0,
    variability: 0.050,
    low_to_high: 1.0,
    breathing: [0.20, 0.32],
    sounds: [1.0, 0.75],
    s_wave: 1.0,
    t_wave: 0.9,
    hiss: 0.035,
    breath: 0.020,
    muscle: 0.035,
    wander: 0.06,
    onset: 1.0,
    motion: Motion::Still,
};

const WALKING: Profile = Profile {
    rate_rise: [30.0, 33.0],
    rate_spread: 7.0,
    variability: 0.025,
    low_to_high: 1.5,
    breathing: [0.28, 0.42],
    sounds: [1.0, 0.7],
    s_wave: 1.5,
    t_wave: 0.85,
    hiss: 0.070,
    breath: 0.04,
    muscle: 0.090,
    wander: 0.12,
    onset: 0.95,
    motion: Motion::Steps { cadence: [1.75, 1.75], strength: 1.8, motor: 0.06 },
};

const PEDALING: Profile = Profile {
    rate_rise: [40.0, 45.0],
    rate_spread: 9.0,
    variability: 0.020,
    low_to_high: 1.5,
    breathing: [0.33, 0.50],
    sounds: [1.0, 0.7],
    s_wave: 1.7,
    t_wave: 0.85,
    hiss: 0.120,
    breath: 0.06,
    muscle: 0.030,
    wander: 0.08,
    onset: 0.95,
    motion: Motion::Pedals { cadence: 1.05, whirr: 0.08 },
};

const BICYCLE_STRESS: Profile = Profile {
    rate_rise: [45.0, 95.0],
    rate_spread: 10.0,
    variability: 0.015,
    low_to_high: 1.0,
    breathing: [0.45, 0.70],
    sounds: [1.05, 0.7],
    s_wave: 2.5,
    t_wave: 0.8,
    hiss: 0.220,
    breath: 0.15,
    muscle: 0.060,
    wander: 0.15,
    onset: 0.65,
    motion: Motion::Pedals { cadence: 1.25, whirr: 0.15 },
};

const BRUCE_TREADMILL: Profile = Profile {
    rate_rise: [38.0, 105.0],
    rate_spread: 10.0,
    variability: 0.015,
    low_to_high: 1.0,
    breathing: [0.45, 0.75],
    sounds: [1.05, 0.7],
    s_wave: 2.3,
    t_wave: 0.8,
    hiss: 0.150,
    breath: 0.15,
    muscle: 0.160,
    wander: 0.25,
    onset: 0.6,
    motion: Motion::Steps { cadence: [1.85, 2.7], strength: 2.8, motor: 0.14 },
};
