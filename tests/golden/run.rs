//! Our programs at work: on the CPU plugin in float32, and in the evaluator in float64.

use tpu_train::cli::PlatformArgs;
use tpu_train::model::NamedTensor;
use tpu_train::model::step::{Program, ProgramGraph, StepConfig};
use tpu_train::pjrt::{Platform, PlatformRequest};
use tpu_train::runtime::{self, Arg, HostTensor, Replicated};
use tpu_train::train::session::Session;
use tpu_train_hlo::eval::{self, Tensor};
use tpu_train_hlo::{ElementType, Shape};

use super::case::Case;
use crate::support;

/// The CPU plugin with one device.
pub(super) struct Device {
    pub(super) session: Session,
}

impl Device {
    pub(super) fn start() -> Option<Self> {
        support::runtime(1)?;
        let args = PlatformArgs {
            platform: PlatformRequest::Only(Platform::Cpu),
            plugin: None,
            slices: Some(1),
            devices_per_slice: None,
        };
        Some(Self { session: Session::start(&args, Some(1), None).unwrap() })
    }

    pub(super) fn compile(&self, program: Program) -> runtime::Program {
        self.session.compile(program).unwrap()
    }

    pub(super) fn put(&self, tensors: &[NamedTensor]) -> Vec<Replicated> {
        self.session.replicate(tensors).unwrap()
    }

    pub(super) fn put_step(&self, step: usize) -> Replicated {
        self.session.runtime.replicate(&HostTensor::scalar_i32(step as i32), 1).unwrap()
    }

    /// The batch of a step, uploaded.
    pub(super) fn put_batch(&self, case: &Case, config: &StepConfig, step: usize) -> Vec<Replicated> {
        self.session.upload(&case.padded_batch(step, config.rows), config).unwrap()
    }

    /// The outputs, float32 and s32 alike, as f64.
    pub(super) fn run(&self, program: &runtime::Program, inputs: &[Replicated]) -> Vec<Vec<f64>> {
        let outputs = program.execute(inputs.iter().map(Arg::Borrow).collect()).unwrap();
        let fetch = |output: &Replicated| {
            let tensor = output.fetch(0).unwrap();
            match tensor.element_type {
                ElementType::S32 => tensor.to_i32().unwrap().into_iter().map(f64::from).collect(),
                _ => tensor.to_f32().unwrap().into_iter().map(f64::from).collect(),
            }
        };
        outputs.iter().map(fetch).collect()
    }
}

/// A program's outputs in float64, for values of its parameters in order.
pub(super) fn evaluate(program: &ProgramGraph, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let shapes = program.graph.parameter_shapes();
    assert_eq!(shapes.len(), inputs.len(), "parameters");
    let tensors = shapes.into_iter().zip(inputs).map(|(shape, values)| Tensor::new(shape, values.clone()));
    let outputs = eval::evaluate(&program.graph, &program.outputs, &[tensors.collect()]).unwrap();
    outputs[0].iter().map(|tensor| tensor.values().to_vec()).collect()
}

/// The batch of a step for [`evaluate`]: already scaled, since the evaluator would not round the quotient to float32.
/// The program is one for float32 samples.
pub(super) fn scaled_batch(case: &Case, step: usize) -> [Vec<f64>; 6] {
    let batch = case.batch(step);
    let channels = batch.real_rows * case.config.channels;
    [
        case.scaled(step),
        vec![0.0; channels],
        vec![1.0; channels],
        batch.labels.iter().map(|&label| f64::from(label)).collect(),
        vec![1.0; batch.real_rows],
        vec![0.0],
    ]
}

/// The configuration of a program for [`scaled_batch`].
pub(super) fn scaled_config(case: &Case, step: usize) -> StepConfig {
    StepConfig { samples: ElementType::F32, ..case.step_config(case.batch(step).real_rows) }
}

/// What the gradients' program gave.
pub(super) struct Learned {
    pub(super) loss: f64,
    /// Of the trainable variables, in order.
    pub(super) gradients: Vec<Vec<f64>>,
    /// Mean and variance after the step.
    pub(super) moving: Vec<Vec<f64>>,
}

impl Learned {
    pub(super) fn new(mut outputs: Vec<Vec<f64>>) -> Self {
        let metrics = outputs.pop().unwrap();
        let moving = outputs.split_off(outputs.len() - 2);
        Self { loss: metrics[0] / metrics[2], gradients: outputs, moving }
    }
}

/// A parameter's shape.
pub(super) fn f32_shape(dims: &[usize]) -> Shape {
    Shape::new(ElementType::F32, dims)
}
