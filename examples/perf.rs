#![allow(missing_docs, clippy::unwrap_used)]
use std::time::Instant;
use tpu_train::cli::PlatformArgs;
use tpu_train::model::forms::Forms;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::{self, StepConfig};
use tpu_train::model::{ModelConfig, initialize};
use tpu_train::runtime::{Arg, HostTensor};
use tpu_train::train::session::Session;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    tpu_train::pjrt::prepare_environment();
    let a: Vec<usize> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (batch, steps, slices) = (a[0], a[1], a.get(2).copied().unwrap_or(1));
    let dump = std::env::var("DUMP").ok().map(Into::into);
    let args = PlatformArgs {
        platform: "cpu".parse().unwrap(),
        plugin: None,
        slices: Some(slices),
        devices_per_slice: None,
    };
    let session = Session::start(&args, Some(batch), dump).unwrap();
    let model = ModelConfig::new(a.get(3).copied().unwrap_or(10000), 2, 6);
    let config = StepConfig {
        model: model.clone(),
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: slices,
        rows: batch / slices,
        batch_norm: BatchNormScope::Synced,
        precision: Precision::F32,
        samples: tpu_train_hlo::ElementType::S16,
        seed: 1,
        forms: Forms::CPU,
    };
    let program = session.compile(step::train_step(&config).unwrap()).unwrap();
    println!(
        "compile {:.1}s temp {:?}",
        program.compile_seconds(),
        program.memory().map(|m| m.total() / 1000000)
    );
    let weights = initialize::initial(&model, 1);
    let mut state = session.replicate(&weights).unwrap();
    let zeros: Vec<_> = tpu_train::model::trainable_variables(&model)
        .iter()
        .map(|s| tpu_train::model::NamedTensor {
            name: s.name.clone(),
            dims: s.dims.clone(),
            values: vec![0.0; s.elements()],
        })
        .collect();
    state.extend(session.replicate(&zeros).unwrap());
    state.extend(session.replicate(&zeros).unwrap());
    state.push(session.runtime.replicate(&HostTensor::scalar_i32(0), slices).unwrap());
    let samples: Vec<i16> = (0..batch * model.window * 2)
        .map(|i| (((i * 7919) % 1031) as f64 * 0.9 + 300.0 * ((i as f64) * 0.01).sin()) as i16)
        .collect();
    let ts = [
        HostTensor::from_i16(&samples, &[batch, model.window, 2]),
        HostTensor::from_f32(&vec![-400.0; batch * 2], &[batch, 2]),
        HostTensor::from_f32(&vec![1800.0; batch * 2], &[batch, 2]),
        HostTensor::from_i32(&(0..batch as i32).map(|i| i % 6).collect::<Vec<_>>(), &[batch]),
        HostTensor::from_f32(&vec![1.0; batch], &[batch]),
    ];
    let b: Vec<_> = ts.iter().map(|t| session.runtime.shard(t, slices).unwrap()).collect();
    let (mut wall, mut cpus) = (vec![], vec![]);
    for i in 0..=steps {
        let (t, c) = (Instant::now(), cpu());
        let s = std::mem::take(&mut state);
        let mut out = program
            .execute(s.into_iter().map(Arg::Donate).chain(b.iter().map(Arg::Borrow)).collect())
            .unwrap();
        let m = out.pop().unwrap().fetch(0).unwrap().to_f32().unwrap();
        state = out;
        if i > 0 {
            wall.push(t.elapsed().as_secs_f64());
            cpus.push(cpu() - c);
        }
        if i == steps {
            println!("loss {:?}", m[0] / m[2]);
        }
    }
    wall.sort_by(f64::total_cmp);
    cpus.sort_by(f64::total_cmp);
    let n = batch as f64;
    println!(
        "B={batch} slices={slices}: wall ms/window med {:.1} best {:.1}  cpu med {:.1} best {:.1}  windows/s med {:.1} best {:.1}",
        wall[steps / 2] / n * 1e3,
        wall[0] / n * 1e3,
        cpus[steps / 2] / n * 1e3,
        cpus[0] / n * 1e3,
        n / wall[steps / 2],
        n / wall[0]
    );
    if std::env::var("DUMP").is_ok() {
        use std::io::{Read, Seek, SeekFrom, Write};
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut mem = std::fs::File::open("/proc/self/mem").unwrap();
        let mut out = std::fs::File::create("/tmp/jit.bin").unwrap();
        for l in maps.lines() {
            let f: Vec<&str> = l.split_whitespace().collect();
            if !f[1].contains('x') || f.len() > 5 {
                continue;
            }
            let (a, b) = f[0].split_once('-').unwrap();
            let (a, b) = (u64::from_str_radix(a, 16).unwrap(), u64::from_str_radix(b, 16).unwrap());
            let mut v = vec![0; (b - a) as usize];
            mem.seek(SeekFrom::Start(a)).unwrap();
            if mem.read_exact(&mut v).is_err() {
                continue;
            }
            out.write_all(&a.to_le_bytes()).unwrap();
            out.write_all(&(b - a).to_le_bytes()).unwrap();
            out.write_all(&v).unwrap();
        }
    }
}
