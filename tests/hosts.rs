//! Many hosts: every process of several clusters is played here, and what all of them do is held against what one
//! process does. Eight virtual devices stand for eight hosts where the devices' collectives decide.

use crate::support;
use std::sync::{Arc, OnceLock};
use tpu_train::cli::PlatformArgs;
use tpu_train::data::simulate::{SimulateOptions, simulate};
use tpu_train::data::{
    Batch, LabelRule, Loader, Plan, PrepareOptions, Prepared, RecordingOrder, Samples, WindowTable, batch,
    prepare,
};
use tpu_train::model::forms::Forms;
use tpu_train::model::network::{BatchNormScope, Precision};
use tpu_train::model::optimizer::{Adam, LearningRate};
use tpu_train::model::step::{self, State, StepConfig};
use tpu_train::model::{ModelConfig, initialize, trainable_variables};
use tpu_train::pjrt::{OptionValue, Platform, PlatformRequest, Plugin, plugin};
use tpu_train::runtime::{self, Arg, HostTensor, Replicated};
use tpu_train::topology::{Cluster, Mesh, Place, Share};
use tpu_train::train::agreement::{self, Agreement};
use tpu_train::train::evaluate::Evaluator;
use tpu_train::train::pass::Windows;
use tpu_train::train::session::Session;
use tpu_train::train::statistics::Statistics;
use tpu_train::train::stop::Stop;
use tpu_train::train::trainer::Trainer;
use tpu_train_hlo::ElementType;

/// Slices, hosts of each, devices of each host.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 1, 8), (1, 2, 1), (1, 4, 2), (8, 1, 1), (8, 8, 4), (2, 16, 4)];

const WINDOW: usize = 100;

struct Data {
    prepared: Arc<Prepared>,
    table: Arc<WindowTable>,
    _folder: tempfile::TempDir,
}

/// 600 windows of 30 simulated recordings.
fn data() -> &'static Data {
    static DATA: OnceLock<Data> = OnceLock::new();
    DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut recordings = SimulateOptions::new(folder.path().join("recordings"));
        (recordings.subjects, recordings.seconds) = (5, 1.0);
        simulate(&recordings, &|_, _| {}, &Stop::default().flag()).unwrap();
        let mut options = PrepareOptions::new(Some(recordings.out.clone()));
        options.out = Some(folder.path().join("shards"));
        let prepared = prepare(&options, &|_| {}).unwrap();
        let (rule, order) = (LabelRule::Scenario, RecordingOrder::Spreadsheet);
        let table = WindowTable::new(&prepared, WINDOW, 400, &rule, order).unwrap();
        assert_eq!(table.len(), 600);
        Data { prepared: Arc::new(prepared), table: Arc::new(table), _folder: folder }
    })
}

fn windows(indices: &[u32]) -> Windows<'_> {
    let Data { prepared, table, .. } = data();
    Windows { prepared, table, indices }
}

/// What each process of a job owns, in the order of the process indices.
fn shares((slices, hosts, devices): (usize, usize, usize)) -> Vec<Share> {
    let host = |host: usize| Place { slice: (host / hosts) as i64, process: host as i32 };
    let places: Vec<Place> = (0..slices * hosts * devices).map(|device| host(device / devices)).collect();
    let cluster = Cluster::new(&places);
    (0..slices * hosts).map(|process| cluster.share(host(process)).unwrap()).collect()
}

fn append(whole: &mut Batch, part: Batch) {
    match (&mut whole.samples, part.samples) {
        (Samples::I16(whole), Samples::I16(part)) => whole.extend(part),
        _ => panic!("simulated recordings are int16"),
    }
    whole.minimum.extend(part.minimum);
    whole.range.extend(part.range);
    whole.labels.extend(part.labels);
    whole.weights.extend(part.weights);
    whole.real_rows += part.real_rows;
}

/// The global batches of steps `steps` as the job's processes assemble them, each its own rows through a loader.
fn assembled(shape: (usize, usize, usize), plan: &Plan, steps: std::ops::Range<u64>) -> Vec<Batch> {
    let Data { prepared, table, .. } = data();
    let (slices, hosts, devices) = shape;
    let rows = Mesh::new(slices, hosts * devices).unwrap().rows(plan.batch_size()).unwrap();
    let mut whole: Vec<Batch> = steps.clone().map(|_| Batch::empty()).collect();
    for share in shares(shape) {
        let own = share.rows(rows);
        let batches = plan.steps_of(own.clone(), steps.start, steps.end);
        let loader = Loader::start(prepared.clone(), table.clone(), own.len(), batches);
        let parts: Vec<Batch> = loader.map(Result::unwrap).collect();
        assert_eq!(parts.len(), whole.len(), "every process takes every step");
        for (whole, part) in whole.iter_mut().zip(parts) {
            assert_eq!(part.rows(), own.len());
            append(whole, part);
        }
    }
    whole
}

#[test]
fn the_rows_of_all_processes_are_the_batch_of_one() {
    let Data { prepared, table, .. } = data();
    for shape in SHAPES {
        let replicas = shape.0 * shape.1 * shape.2;
        // Three batches and a half, so that the last one ends among the rows of some process.
        let size = 256 / replicas * replicas;
        for windows in [size * 2 + size / 2 + 1, 1] {
            let indices: Vec<u32> = (0..windows as u32).map(|index| index * 7 % 600).collect();
            let plan = Plan::new(indices, size, 5, true).unwrap();
            let steps = plan.steps_per_epoch();
            let found = assembled(shape, &plan, 0..steps + 1);
            assert_eq!(found.len() as u64, steps + 1, "an epoch and the first step of the next");
            for (step, found) in found.iter().enumerate() {
                let expected = batch(prepared, table, &plan.indices(step as u64), size).unwrap();
                assert!(*found == expected, "{shape:?}, step {step} of {windows} windows");
            }
            let real: usize = found[..steps as usize].iter().map(|batch| batch.real_rows).sum();
            assert_eq!(real, windows, "every window once an epoch");
        }
    }
}

#[test]
fn a_restart_on_another_number_of_hosts_sees_the_same_batches() {
    let plan = Plan::new((0..600).collect(), 256, 11, true).unwrap();
    let expected = assembled((1, 1, 1), &plan, 0..7);
    for (before, after) in [((8, 8, 4), (1, 1, 8)), ((1, 4, 2), (2, 16, 4)), ((1, 1, 1), (8, 8, 4))] {
        let mut found = assembled(before, &plan, 0..4);
        found.extend(assembled(after, &plan, 4..7));
        assert!(found == expected, "{before:?}, then {after:?}");
    }
}

#[test]
fn one_process_of_a_job_writes() {
    for shape in SHAPES {
        let shares = shares(shape);
        let writers: Vec<usize> = (0..shares.len()).filter(|&process| shares[process].writes()).collect();
        assert_eq!(writers, [0], "{shape:?}");
        assert_eq!(shares.len() == 1, shares[0].is_whole());
    }
}

/// The device lists of real TPUs, as libtpu describes them: ids, slices and hosts in its own order.
#[test]
fn the_devices_of_real_topologies_are_shared_out_host_by_host() {
    support::prepare();
    let Some(file) = plugin::find(Platform::Tpu).unwrap() else {
        return eprintln!("skipped: libtpu is not installed; tpu-train plugin install tpu");
    };
    let plugin = Plugin::load(&file).unwrap();
    for (name, slices, hosts, devices) in
        [("v5e:2x4", 1, 2, 8), ("v5e:4x4", 8, 4, 16), ("v4:2x2x4", 2, 4, 32)]
    {
        let options = [("num_slices", OptionValue::Int(slices))];
        let topology = plugin.topology(name, if slices > 1 { &options[..] } else { &[] }).unwrap();
        let places: Vec<Place> = topology.devices().unwrap().iter().map(runtime::place).collect();
        let cluster = Cluster::new(&places);
        assert_eq!((cluster.slices(), places.len()), (slices as usize, slices as usize * devices), "{name}");
        let unique: std::collections::BTreeSet<Place> = places.iter().copied().collect();
        assert_eq!(unique.len(), slices as usize * hosts, "{name}: hosts");
        let mut next = 0;
        for (rank, place) in unique.into_iter().enumerate() {
            let share = cluster.share(place).unwrap();
            assert_eq!((share.process, share.replicas.start), (rank, next), "{name}");
            assert_eq!(share.replicas.len(), devices / hosts, "{name}");
            next = share.replicas.end;
        }
    }
}

fn session(slices: usize, batch_size: usize) -> Option<Session> {
    support::runtime(1)?;
    let platform = PlatformRequest::Only(Platform::Cpu);
    let args = PlatformArgs { platform, plugin: None, slices: Some(slices), devices_per_slice: None };
    Some(Session::start(&args, Some(batch_size), None).unwrap())
}

fn config(session: &Session) -> StepConfig {
    StepConfig {
        model: ModelConfig::new(WINDOW, 2, 6),
        optimizer: Adam::new(LearningRate::Constant(1e-3)),
        replicas: session.mesh.replicas(),
        rows: session.rows,
        batch_norm: BatchNormScope::Synced,
        precision: Precision::F32,
        samples: ElementType::S16,
        seed: 7,
        forms: Forms::CPU,
    }
}

/// The training state before the first step, as the training step takes it.
fn state(session: &Session, config: &StepConfig) -> Vec<Replicated> {
    let mut state = session.replicate(&initialize::initial(&config.model, 3)).unwrap();
    for spec in trainable_variables(&config.model).iter().cycle().take(2 * State::of(&config.model).trainable)
    {
        let zeros = HostTensor::zeros(ElementType::F32, &spec.dims);
        state.push(session.replicate_one(&zeros).unwrap());
    }
    state.push(session.replicate_one(&HostTensor::scalar_i32(0)).unwrap());
    state
}

#[test]
fn one_process_asked_to_stop_stops_all_at_the_same_step() {
    let Some(session) = session(8, 16) else { return };
    let config = config(&session);
    let program = session.compile(step::train_step(&config).unwrap()).unwrap();
    let Data { prepared, table, .. } = data();
    let batch = batch(prepared, table, &[1, 2, 3], 16).unwrap();
    for asked in [vec![], vec![3], vec![0, 7]] {
        let mut flags = [0.0; 8];
        asked.iter().for_each(|&replica: &usize| flags[replica] = 1.0);
        let mut arguments: Vec<Arg<'_>> = state(&session, &config).into_iter().map(Arg::Donate).collect();
        let mut inputs = session.upload_rows(&batch, &config).unwrap();
        inputs.push(session.runtime.shard(&HostTensor::from_f32(&flags, &[8]), 8).unwrap());
        arguments.extend(inputs.iter().map(Arg::Borrow));
        let metrics = program.execute(arguments).unwrap().pop().unwrap().fetch_all().unwrap();
        for replica in metrics {
            let [_, _, weight, stop] = replica.to_f32().unwrap()[..] else { panic!("{replica:?}") };
            assert_eq!((weight, stop), (3.0, asked.len() as f32), "asked: {asked:?}");
        }
    }
    let weights = initialize::initial(&config.model, 3);
    let mut trainer = Trainer::new(&session, &config, program, &weights, None).unwrap();
    for stop in [false, true] {
        let uploaded = trainer.upload(&batch).unwrap();
        let outcomes = trainer.launch(&[uploaded], stop).unwrap().wait().unwrap();
        assert_eq!(outcomes[0].stopped, stop);
    }
}

#[test]
fn an_evaluation_over_eight_counts_what_one_counts() {
    let (Some(one), Some(eight)) = (session(1, 16), session(8, 16)) else { return };
    let Data { table, .. } = data();
    // The last batch leaves most replicas with padding alone.
    let indices: Vec<u32> = (0..600).step_by(17).collect();
    let evaluate = |session: &Session| {
        let mut config = config(session);
        config.model.l2 = 0.01;
        let variables = session.replicate(&initialize::initial(&config.model, 3)).unwrap();
        let evaluator = Evaluator::new(session, &config).unwrap();
        let stop = Stop::default();
        let evaluation = evaluator.run(&variables, windows(&indices), &stop).unwrap().unwrap();
        let rows = evaluator.probabilities(&variables, windows(&indices), &stop).unwrap().unwrap();
        (evaluation, rows)
    };
    let ((one, rows), (eight, rows_of_eight)) = (evaluate(&one), evaluate(&eight));
    assert_eq!(one.counts, eight.counts);
    assert!((one.loss - eight.loss).abs() < 1e-6, "{} and {}", one.loss, eight.loss);
    assert_eq!(rows.len(), indices.len() * 6);
    assert!(rows.iter().zip(&rows_of_eight).all(|(a, b)| (a - b).abs() < 1e-6));

    // The counts are those of the rows themselves.
    let mut counts = vec![vec![0; 6]; 6];
    for (row, &index) in rows.chunks(6).zip(&indices) {
        let largest = row.iter().copied().fold(0.0, f32::max);
        let predicted = row.iter().position(|&p| p == largest).unwrap();
        counts[table.windows[index as usize].label as usize][predicted] += 1;
    }
    assert_eq!(one.counts, counts);
}

#[test]
fn statistics_over_eight_in_batches_are_those_of_one_batch() {
    let (Some(one), Some(eight)) = (session(1, 40), session(8, 16)) else { return };
    // One batch; or three, of which the last leaves most replicas with padding alone.
    let indices: Vec<u32> = (0..600).step_by(17).collect();
    let take = |session: &Session| {
        let config = config(session);
        let variables = session.replicate(&initialize::initial(&config.model, 3)).unwrap();
        let statistics = Statistics::new(session, &config).unwrap();
        statistics.run(&variables, windows(&indices), &Stop::default()).unwrap().unwrap()
    };
    let ([means, variances], [means_of_eight, variances_of_eight]) = (take(&one), take(&eight));
    assert!(variances.iter().filter(|&&variance| variance > 1e-9).count() > means.len() / 2);
    for (feature, &variance) in variances.iter().enumerate() {
        let off = [means[feature] - means_of_eight[feature], variance - variances_of_eight[feature]];
        let limits = [1e-6 * variance.sqrt() + 1e-9, 1e-6 * variance + 1e-9];
        assert!(off.iter().zip(limits).all(|(off, limit)| off.abs() <= limit), "feature {feature}: {off:?}");
    }
}

#[test]
fn an_evaluation_that_a_process_is_asked_to_stop_gives_nothing() {
    let Some(session) = session(8, 16) else { return };
    let config = config(&session);
    let variables = session.replicate(&initialize::initial(&config.model, 3)).unwrap();
    let evaluator = Evaluator::new(&session, &config).unwrap();
    let stop = Stop::default();
    stop.flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(evaluator.run(&variables, windows(&[1, 2, 3]), &stop).unwrap().is_none());
    let statistics = Statistics::new(&session, &config).unwrap();
    assert!(statistics.run(&variables, windows(&[1, 2, 3]), &stop).unwrap().is_none());
}

#[test]
fn processes_that_differ_are_told_in_what() {
    let Some(session) = session(8, 16) else { return };
    let usual = || Agreement::default().on("the settings", b"seed 42").on("the programs (HLO)", b"HloModule");
    let usual = usual();
    usual.expect_same(&session, &[&usual; 8]).unwrap();
    let other_settings =
        Agreement::default().on("the settings", b"seed 43").on("the programs (HLO)", b"HloModule");
    let other_programs =
        Agreement::default().on("the settings", b"seed 42").on("the programs (HLO)", b"HloModulf");
    for (replica, other, named) in [
        (0, &other_settings, "differ in the settings;"),
        (5, &other_programs, "differ in the programs (HLO);"),
        (7, &other_settings, "differ in the settings;"),
    ] {
        let mut all = [&usual; 8];
        all[replica] = other;
        let error = usual.expect_same(&session, &all).unwrap_err().to_string();
        assert!(error.contains(named), "replica {replica}: {error}");
    }
    let mut all = [&usual; 8];
    (all[1], all[2]) = (&other_settings, &other_programs);
    let error = usual.expect_same(&session, &all).unwrap_err().to_string();
    assert!(error.contains("differ in the settings and the programs (HLO);"), "{error}");
}

#[test]
fn the_first_processs_state_reaches_all() {
    let Some(session) = session(8, 16) else { return };
    let of_replica = |replica: i32| [replica + 1, i32::MIN, -replica, f32::NAN.to_bits() as i32];
    let words: Vec<i32> = (0..8).flat_map(of_replica).collect();
    assert_eq!(agreement::of_first(&session, &words).unwrap(), of_replica(0));
}
