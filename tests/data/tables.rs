//! Windows, splits, orders and batches.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tpu_train::data::*;

use super::maker::{BED, CHAIR, Root, mat_bytes, wave};

fn table(root: &Root, window: usize, stride: usize) -> Result<WindowTable, DataError> {
    WindowTable::new(&root.prepare(), window, stride, &LabelRule::Scenario, RecordingOrder::Spreadsheet)
}

#[test]
fn windows_drop_the_tail_and_check_their_settings() {
    let mut root = Root::new();
    root.recording("A1", "S1", BED, 105);
    root.recording("A2", "S2", CHAIR, 40);
    let starts = |window, stride| -> Vec<(u32, u64)> {
        table(&root, window, stride).unwrap().windows.iter().map(|w| (w.recording, w.start)).collect()
    };
    assert_eq!(starts(50, 50), [(0, 0), (0, 50)]);
    assert_eq!(starts(40, 30), [(0, 0), (0, 30), (0, 60), (1, 0)]);
    assert_eq!(starts(105, 1), [(0, 0)]);
    assert_eq!(table(&root, 50, 50).unwrap().too_short, ["A2"]);
    for (window, stride, part) in
        [(0, 1, "at least 1"), (1, 0, "at least 1"), (106, 1, "choose --window 105")]
    {
        let error = table(&root, window, stride).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn permutations_equal_numpy() {
    assert_eq!(permutation(0, 10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
    assert_eq!(permutation(42, 20), [0, 17, 15, 1, 8, 5, 11, 3, 18, 16, 13, 2, 9, 19, 4, 12, 7, 10, 14, 6]);
    assert_eq!(permutation(u32::MAX, 7), [1, 5, 0, 6, 4, 2, 3]);
    assert_eq!(permutation(7, 1), [0]);
    assert!(permutation(7, 0).is_empty());
    let mut generator = Mt19937::new(5489);
    assert_eq!([0; 3].map(|_| generator.next_u32()), [3_499_211_612, 581_869_302, 3_890_346_734]);
    for (seed, n, sha256) in [
        (42, 64_992, "35d03c5dbd9a020bac558a18b2a53c8bba4cf1ee2bb839900e660e34209e9e43"),
        (123, 100_003, "dfd849b23e83979ac830777ed0919ed950968f2fc53c0a75307d0a71cce5bc7f"),
    ] {
        let bytes: Vec<u8> = permutation(seed, n).iter().flat_map(|i| i.to_le_bytes()).collect();
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(digest, sha256);
    }
}

#[test]
fn shuffles_are_bijections_that_mix() {
    for n in (1..70).chain([127, 128, 129, 1000, 4097, 83_712]) {
        let mut seen: Vec<u64> = epoch_order(7, 3, n).collect();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..n), "{n}");
    }
    let order = |seed, epoch| epoch_order(seed, epoch, 1000).collect::<Vec<_>>();
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    // Each item at each place about equally often: chi-square over 8 items and 4,000 orders, 49 degrees of freedom.
    let mut counts = [[0f64; 8]; 8];
    for seed in 0..4000 {
        epoch_order(seed, 0, 8).enumerate().for_each(|(place, item)| counts[place][item as usize] += 1.0);
    }
    let chi: f64 = counts.iter().flatten().map(|c| (c - 500.0).powi(2) / 500.0).sum();
    assert!(chi < 49.0 + 5.0 * 98f64.sqrt(), "{chi}");
    // Neighbours part: the mean distance of successive items is that of a random order, n / 3.
    let items = order(9, 9);
    let distance: u64 = items.windows(2).map(|w| w[0].abs_diff(w[1])).sum();
    assert!((300..370).contains(&(distance / 999)), "{distance}");
}

#[test]
fn a_plan_is_a_pure_function_of_the_step() {
    let plan = Plan::new((100..111).collect(), 4, 5, true).unwrap();
    assert_eq!((plan.len(), plan.steps_per_epoch(), plan.batch_size()), (11, 3, 4));
    for epoch in 0..5 {
        let steps: Vec<_> = (0..3).map(|s| plan.indices(epoch * 3 + s)).collect();
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 3]);
        let mut all = steps.concat();
        all.sort_unstable();
        assert!(all.iter().copied().eq(100..111));
    }
    assert_ne!(plan.indices(0), plan.indices(3));
    assert_eq!(plan.steps(2, 5).collect::<Vec<_>>(), [plan.indices(2), plan.indices(3), plan.indices(4)]);
    let plain = Plan::new((100..111).collect(), 4, 5, false).unwrap();
    assert_eq!((plain.indices(0), plain.indices(5)), (vec![100, 101, 102, 103], vec![108, 109, 110]));
    assert!(Plan::new(vec![], 4, 5, true).is_err() && Plan::new(vec![1], 0, 5, true).is_err());
}

/// Twelve people, the first with two recordings, uneven lengths.
fn people() -> Root {
    let mut root = Root::new();
    root.recording("B0", "S0", CHAIR, 300);
    for i in 0..12 {
        let scenario = if i % 2 == 0 { BED } else { CHAIR };
        root.recording(&format!("A{i}"), &format!("S{i}"), scenario, 200 + 40 * i);
    }
    root
}

fn check_parts(table: &WindowTable, split: &Split) {
    let mut all = [split.train.as_slice(), &split.validation, &split.test].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..table.len() as u32), "disjoint and exhaustive");
}

#[test]
fn splits_are_disjoint_exhaustive_and_keep_groups_whole() {
    let table = table(&people(), 10, 10).unwrap();
    let n = table.len() as f64;
    for by in [SplitBy::Subject, SplitBy::Recording, SplitBy::Random] {
        for (validation, test) in [(0.1, 0.1), (0.2, 0.1), (0.0, 0.1), (0.1, 0.0), (0.0, 0.0), (0.3, 0.3)] {
            for seed in 0..20 {
                let options = SplitOptions { by, validation, test, seed, validate_on_test: false };
                let split = Split::new(&table, &options).unwrap();
                assert_eq!(split, Split::new(&table, &options).unwrap());
                check_parts(&table, &split);
                for (part, fraction) in [(&split.validation, validation), (&split.test, test)] {
                    assert_eq!(part.is_empty(), fraction == 0.0);
                    assert!(
                        (part.len() as f64 / n - fraction).abs() < 0.06,
                        "{by:?} {fraction} {}",
                        part.len()
                    );
                }
                assert!(table.class_counts(&split.train).iter().all(|c| *c > 0));
                let mut part_of = BTreeMap::new();
                for (name, part) in
                    [("train", &split.train), ("val", &split.validation), ("test", &split.test)]
                {
                    for &window in part {
                        let group = match by {
                            SplitBy::Subject => table.subject(window),
                            SplitBy::Recording => table.windows[window as usize].recording,
                            SplitBy::Random => window,
                        };
                        assert_eq!(*part_of.entry(group).or_insert(name), name, "{by:?} {group}");
                    }
                }
            }
        }
    }
}

#[test]
fn different_seeds_deal_differently() {
    let table = table(&people(), 10, 10).unwrap();
    let tests: HashSet<Vec<u32>> = (0..20)
        .map(|seed| Split::new(&table, &SplitOptions { seed, ..Default::default() }).unwrap().test)
        .collect();
    assert!(tests.len() > 3, "{}", tests.len());
}

#[test]
fn the_only_person_of_a_class_trains() {
    let mut root = Root::new();
    for i in 0..6 {
        root.recording(&format!("A{i}"), &format!("S{i}"), CHAIR, 100);
    }
    root.recording("B", "S9", BED, 100);
    let table = table(&root, 10, 10).unwrap();
    for seed in 0..50 {
        let split = Split::new(&table, &SplitOptions { seed, ..Default::default() }).unwrap();
        assert!(split.train.iter().any(|&w| table.windows[w as usize].label == 0), "seed {seed}");
        assert!(!split.validation.is_empty() && !split.test.is_empty());
    }
}

#[test]
fn impossible_splits_say_what_to_do() {
    let mut root = Root::new();
    root.recording("A1", "S1", BED, 100);
    root.recording("A2", "S1", CHAIR, 100);
    let table = table(&root, 50, 50).unwrap();
    let split = |by, validation, test| {
        let options = SplitOptions { by, validation, test, ..Default::default() };
        Split::new(&table, &options).map_err(|e| e.to_string())
    };
    let error = split(SplitBy::Subject, 0.1, 0.0).unwrap_err();
    assert!(error.contains("1 subject cannot") && error.contains("--split random"), "{error}");
    let error = split(SplitBy::Recording, 0.1, 0.1).unwrap_err();
    assert!(error.contains("2 recordings") && error.contains("--val-fraction 0"), "{error}");
    assert!(split(SplitBy::Recording, 0.0, 0.1).is_ok() && split(SplitBy::Subject, 0.0, 0.0).is_ok());
    let error = split(SplitBy::Random, 0.5, 0.4).unwrap_err();
    assert!(error.contains("4 windows"), "{error}");
    for (validation, test) in [(1.0, 0.0), (-0.1, 0.0), (0.5, 0.5), (f64::NAN, 0.0)] {
        assert!(split(SplitBy::Random, validation, test).unwrap_err().contains("expected each in [0, 1)"));
    }
}

#[test]
fn recordings_without_a_subject_are_people_of_their_own() {
    let mut root = Root::new();
    root.recording("A1", "", BED, 100);
    root.recording("A2", " ", BED, 100);
    let table = table(&root, 50, 50).unwrap();
    assert_ne!(table.subject(0), table.subject(2));
}

#[test]
fn batches_hold_the_windows_and_pad_with_weight_zero() {
    let mut root = Root::new();
    root.recording("A1", "S1", BED, 100);
    root.recording("A2", "S2", CHAIR, 100);
    let prepared = root.prepare();
    let table = table(&root, 20, 20).unwrap();
    let batch = batch(&prepared, &table, &[7, 1], 4).unwrap();
    let Samples::I16(q) = &batch.samples else { panic!("int16 expected") };
    assert_eq!(q.len(), 4 * 20 * 2);
    for (row, (recording, start)) in [(1usize, 40usize), (0, 20)].into_iter().enumerate() {
        for channel in 0..2 {
            let expected = prepared.shard(recording).channel(channel).skip(start).take(20);
            let found = q[row * 40..][..40].iter().skip(channel).step_by(2).map(|q| f64::from(*q) / 2048.0);
            assert!(found.eq(expected));
            let entry = &prepared.recordings()[recording].shard.channels[channel];
            assert_eq!(f64::from(batch.minimum[row * 2 + channel]), entry.minimum * 2048.0);
            assert_eq!(f64::from(batch.range[row * 2 + channel]), (entry.maximum - entry.minimum) * 2048.0);
        }
    }
    assert!(q[80..].iter().all(|q| *q == 0));
    assert_eq!(batch.labels, [1, 0, 0, 0]);
    assert_eq!(batch.weights, [1.0, 1.0, 0.0, 0.0]);
    assert_eq!((&batch.minimum[4..], &batch.range[4..]), (&[0.0; 4][..], &[1.0; 4][..]));
    assert_eq!((batch.real_rows, batch.rows()), (2, 4));
    let mut used = batch.clone();
    fill_batch(&mut used, &prepared, &table, &[1], 2).unwrap();
    assert_eq!(used, tpu_train::data::batch(&prepared, &table, &[1], 2).unwrap());
    for (indices, rows) in [(&[0, 1][..], 1), (&[10], 1)] {
        assert!(fill_batch(&mut used, &prepared, &table, indices, rows).is_err());
    }
}

#[test]
fn one_float32_recording_makes_batches_float32() {
    let mut root = Root::new();
    root.recording("A1", "S1", BED, 40);
    root.row("A2", "S2", CHAIR);
    let (mut ecg, pcg) = (wave(4, 40), wave(5, 40));
    ecg[7] = 0.1;
    root.file("A2", &mat_bytes(&ecg, &pcg, true));
    let prepared = root.prepare();
    let table = table(&root, 20, 20).unwrap();
    assert_eq!(table.sample_type, SampleType::Float32);
    let batch = batch(&prepared, &table, &[0, 2], 3).unwrap();
    let Samples::F32(values) = &batch.samples else { panic!("float32 expected") };
    let first: Vec<f64> = prepared.shard(0).channel(0).take(20).collect();
    assert!(values[..40].iter().step_by(2).map(|v| f64::from(*v)).eq(first));
    assert!(
        values[40..80].iter().step_by(2).eq(ecg[..20].iter().map(|v| *v as f32).collect::<Vec<_>>().iter())
    );
    let entry = &prepared.recordings()[0].shard.channels[0];
    assert_eq!(f64::from(batch.minimum[0]), entry.minimum);
    assert_eq!(values[80..], [0.0; 40]);
}

#[test]
fn the_loader_gives_what_batches_give_and_stops_when_dropped() {
    let root = people();
    let prepared = Arc::new(root.prepare());
    let table = Arc::new(table(&root, 10, 10).unwrap());
    let plan = Plan::new((0..table.len() as u32).collect(), 32, 1, true).unwrap();
    let steps = plan.steps_per_epoch();
    let mut loader = Loader::start(prepared.clone(), table.clone(), 32, plan.steps(0, steps));
    for step in 0..steps {
        let found = loader.next().unwrap().unwrap();
        assert_eq!(found, batch(&prepared, &table, &plan.indices(step), 32).unwrap());
        loader.recycle(found);
    }
    assert!(loader.next().is_none() && loader.next().is_none());
    let mut endless = Loader::start(prepared.clone(), table.clone(), 32, plan.steps(0, u64::MAX));
    assert!(endless.next().is_some());
    drop(endless);
    let mut wrong = Loader::start(prepared, table, 32, [vec![0], vec![u32::MAX], vec![0]].into_iter());
    assert!(wrong.next().unwrap().is_ok());
    assert!(wrong.next().unwrap().is_err());
    assert!(wrong.next().is_none());
}
