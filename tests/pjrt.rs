//! The binding against real plugins, with modules made by hand.

#![allow(clippy::unwrap_used)]

mod aot;
mod executable_file;
mod install;
mod module;

use std::path::Path;

use prost::Message;
use tpu_train::pjrt::{self, Argument, ElementType, ErrorCode, Platform, PlatformRequest};
use tpu_train::runtime::{
    self, Arg, HostTensor, Replicated, Runtime, RuntimeError, RuntimeOptions, compile_options,
    memory_available,
};
use tpu_train_proto::xla::HloModuleProto;

use crate::support;

const ELEMENTS: usize = 4;

fn error_of<T>(result: Result<T, impl ToString>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

/// `state`: 100 on every replica; `x`: replica r holds r + [0.00, 0.25, 0.50, 0.75].
fn inputs(runtime: &Runtime, replicas: usize) -> (Replicated, Replicated) {
    let state = runtime.replicate(&HostTensor::from_f32(&[100.0; ELEMENTS], &[ELEMENTS]), replicas).unwrap();
    let x: Vec<f32> =
        (0..replicas * ELEMENTS).map(|i| (i / ELEMENTS) as f32 + (i % ELEMENTS) as f32 / 4.0).collect();
    let x = runtime.shard(&HostTensor::from_f32(&x, &[replicas * ELEMENTS]), replicas).unwrap();
    (state, x)
}

/// 100 + 3 · Σ over replicas of x.
fn expected(replicas: usize) -> Vec<f32> {
    let sum = |i: usize| (0..replicas).map(|r| r as f32 + i as f32 / 4.0).sum::<f32>();
    (0..ELEMENTS).map(|i| 100.0 + 3.0 * sum(i)).collect()
}

#[test]
fn eight_replicas_reduce_and_loop_over_donated_state() {
    let Some(runtime) = support::runtime(8) else { return };
    let program = runtime.compile(&module::all_reduce_loop(ELEMENTS), 8, None).unwrap();
    assert_eq!((program.replicas(), program.output_count()), (8, 2));
    let (mut state, x) = inputs(&runtime, 8);
    for round in 1..=3 {
        let before: Vec<usize> =
            state.buffers().iter().map(|buffer| buffer.device_address().unwrap()).collect();
        let mut outputs = program.execute(vec![Arg::Donate(state), Arg::Borrow(&x)]).unwrap();
        let squares = outputs.pop().unwrap();
        state = outputs.pop().unwrap();
        let after: Vec<usize> =
            state.buffers().iter().map(|buffer| buffer.device_address().unwrap()).collect();
        assert_eq!(before, after, "the donated buffers are reused in round {round}");
        let values: Vec<f32> =
            expected(8).iter().map(|value| 100.0 + round as f32 * (value - 100.0)).collect();
        for (replica, tensor) in state.fetch_all().unwrap().iter().enumerate() {
            assert_eq!(tensor.to_f32().unwrap(), values, "replica {replica}");
        }
        let squares = squares.fetch_rows().unwrap();
        assert_eq!(squares.dims, [8 * ELEMENTS]);
        assert_eq!(squares.to_f32().unwrap()[5], 1.25 * 1.25);
    }
    assert_eq!(x.fetch(7).unwrap().to_f32().unwrap(), [7.0, 7.25, 7.5, 7.75], "borrowed inputs stay");
}

#[test]
fn a_borrowed_input_survives_a_program_that_would_reuse_it() {
    let Some(runtime) = support::runtime(8) else { return };
    let program = runtime.compile(&module::all_reduce_loop(ELEMENTS), 2, None).unwrap();
    let (state, x) = inputs(&runtime, 2);
    for _ in 0..2 {
        let outputs = program.execute(vec![Arg::Borrow(&state), Arg::Borrow(&x)]).unwrap();
        assert_eq!(outputs[0].fetch(1).unwrap().to_f32().unwrap(), expected(2));
    }
    assert_eq!(state.fetch(0).unwrap().to_f32().unwrap(), [100.0; ELEMENTS]);
}

#[test]
fn threads_may_run_programs_at_once() {
    let Some(runtime) = support::runtime(8) else { return };
    let program = runtime.compile(&module::all_reduce_loop(ELEMENTS), 8, None).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let (state, x) = inputs(&runtime, 8);
                    let outputs = program.execute(vec![Arg::Donate(state), Arg::Borrow(&x)]).unwrap();
                    assert_eq!(outputs[0].fetch(3).unwrap().to_f32().unwrap(), expected(8));
                }
            });
        }
    });
}

#[test]
fn memory_and_fingerprint_and_name_come_back() {
    let Some(runtime) = support::runtime(8) else { return };
    let program = runtime.compile(&module::all_reduce_loop(ELEMENTS), 8, None).unwrap();
    let memory = program.memory().expect("the CPU plugin states memory");
    let tensor = (ELEMENTS * 4) as u64;
    assert_eq!((memory.arguments, memory.aliased), (2 * tensor, tensor));
    assert!(memory.outputs >= 2 * tensor && memory.total() >= 3 * tensor, "{memory:?}");
    let check = runtime.memory_check(&program);
    assert!(check.fits(), "{check:?}");
    assert_eq!(check.needed, Some(8 * memory.total()));
    assert!(check.free <= memory_available().map(|bytes| bytes + (1 << 30)));
    let executable = program.executable().executable();
    assert!(executable.name().unwrap().contains("all_reduce_loop"));
    let other = runtime.compile(&module::all_reduce_loop(5), 8, None).unwrap();
    match (executable.fingerprint(), other.executable().executable().fingerprint()) {
        (Ok(one), Ok(two)) => assert_ne!(one, two),
        (one, _) => eprintln!("the CPU plugin gives no fingerprint: {}", error_of(one)),
    }
}

#[test]
fn dumps_hold_the_module_before_and_after_optimization() {
    let Some(runtime) = support::runtime(8) else { return };
    let folder = tempfile::tempdir().unwrap();
    let module = module::all_reduce_loop(ELEMENTS);
    runtime.compile(&module, 8, Some((&folder.path().join("dump"), "step"))).unwrap();
    let files: Vec<String> = folder
        .path()
        .join("dump")
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let read = |name: &str| std::fs::read(folder.path().join("dump").join(name)).unwrap();
    assert_eq!(HloModuleProto::decode(&read("step.before.pb")[..]).unwrap(), module);
    let after = HloModuleProto::decode(&read("step.after.pb")[..]).unwrap();
    let opcodes: Vec<&str> =
        after.computations.iter().flat_map(|c| &c.instructions).map(|i| i.opcode.as_str()).collect();
    assert!(opcodes.contains(&"all-reduce"), "{opcodes:?}");
    let text = String::from_utf8(read("step.after.txt")).unwrap();
    assert!(text.contains("all-reduce") && text.contains("ENTRY"), "{text}");
    assert!(files.iter().any(|name| name == "step.before.txt"), "{files:?}");
    let theirs = |part: &str| files.iter().any(|name| name.contains(part) && name.ends_with(".txt"));
    assert!(theirs("before_optimizations") && theirs("after_optimizations"), "the compiler's own: {files:?}");
}

#[test]
fn host_arrays_round_trip() {
    let Some(runtime) = support::runtime(8) else { return };
    let client = runtime.client();
    let bytes: Vec<u8> = (0..2 * 3 * 5 * 2).collect();
    for device in [0, 7] {
        let borrowed = client.buffer_from_host(&bytes, ElementType::S16, &[2, 3, 5], device).unwrap();
        let owned =
            client.buffer_from_host_owned(bytes.clone(), ElementType::S16, &[2, 3, 5], device).unwrap();
        for buffer in [borrowed, owned] {
            buffer.wait().unwrap();
            assert_eq!(buffer.to_host().unwrap(), bytes);
            assert_eq!(
                (buffer.dims().unwrap(), buffer.element_type().unwrap()),
                (vec![2, 3, 5], ElementType::S16)
            );
            assert!(buffer.device_bytes().unwrap() >= bytes.len());
            assert!(!buffer.is_deleted().unwrap());
        }
    }
    let empty = client.buffer_from_host(&[], ElementType::F32, &[0, 3], 0).unwrap();
    assert_eq!(empty.to_host().unwrap(), Vec::<u8>::new());
}

#[test]
fn a_failed_call_names_function_code_and_message() {
    let Some(runtime) = support::runtime(8) else { return };
    let options = compile_options(&[0], None);
    let error = runtime.client().compile(b"this is no module", &options).unwrap_err();
    let pjrt::Error::Call(call) = &error else { panic!("{error}") };
    assert_eq!(call.function, "PJRT_Client_Compile");
    assert!(!call.message.is_empty());
    assert!(
        error.to_string().starts_with(&format!("PJRT_Client_Compile failed with {}: ", call.code)),
        "{error}"
    );

    let mut broken = module::all_reduce_loop(ELEMENTS);
    broken.host_program_shape = None;
    let error = error_of(runtime.compile(&broken, 8, None));
    assert!(error.starts_with("PJRT_Client_Compile failed"), "{error}");

    let module = module::all_reduce_loop(ELEMENTS).encode_to_vec();
    let error = runtime.client().compile(&module, &compile_options(&[4711], None)).unwrap_err();
    assert!(error.code().is_some(), "{error}");
    let error = runtime.client().compile(&module, b"\xff\xff\xff").unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument), "{error}");
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let Some(runtime) = support::runtime(8) else { return };
    let program = runtime.compile(&module::all_reduce_loop(ELEMENTS), 2, None).unwrap();
    let (state, x) = inputs(&runtime, 2);
    let error = error_of(program.execute(vec![Arg::Borrow(&state)]));
    assert_eq!(error, "the program takes 2 arguments, found 1");
    let wide = runtime.replicate(&HostTensor::from_f32(&[0.0; 9], &[9]), 2).unwrap();
    let error = error_of(program.execute(vec![Arg::Borrow(&state), Arg::Borrow(&wide)]));
    assert_eq!(error, "argument 1 of the program, \"x\": expected F32[4], found F32[9]");
    let whole = runtime.replicate(&HostTensor::from_i32(&[0; 4], &[4]), 2).unwrap();
    let error = error_of(program.execute(vec![Arg::Borrow(&whole), Arg::Borrow(&x)]));
    assert!(error.contains("\"state\": expected F32[4], found S32[4]"), "{error}");
    let four = runtime.replicate(&HostTensor::from_f32(&[0.0; 4], &[4]), 4).unwrap();
    let error = error_of(program.execute(vec![Arg::Borrow(&state), Arg::Borrow(&four)]));
    assert!(error.contains("argument 1") && error.contains("4 replicas, expected 2"), "{error}");

    let device = |replica: usize| {
        vec![Argument::Borrow(&state.buffers()[replica]), Argument::Borrow(&x.buffers()[replica])]
    };
    let error = error_of(program.executable().execute(vec![device(0)]));
    assert!(error.contains("expected 2, one for each device, found 1"), "{error}");
    let mut uneven = device(1);
    uneven[0] = Argument::Donate(runtime.upload(&HostTensor::from_f32(&[0.0; 4], &[4]), 1).unwrap());
    let error = error_of(program.executable().execute(vec![device(0), uneven]));
    assert!(error.contains("device 1 differs from device 0"), "{error}");

    let outputs = program.execute(vec![Arg::Borrow(&state), Arg::Borrow(&x)]).unwrap();
    assert_eq!(outputs[0].fetch(0).unwrap().to_f32().unwrap(), expected(2), "still usable after errors");
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let Some(runtime) = support::runtime(8) else { return };
    let error = error_of(runtime.compile(&module::all_reduce_loop(ELEMENTS), 9, None));
    assert_eq!(error, "9 replicas were asked for, but the platform cpu has 8 devices");
    let error = error_of(runtime.shard(&HostTensor::from_f32(&[0.0; 6], &[3, 2]), 2));
    assert_eq!(error, "3 rows cannot be cut over 2 replicas");
    let error = error_of(runtime.upload(&HostTensor::scalar_f32(1.0), 8));
    assert!(error.contains("device index: expected less than 8, found 8"), "{error}");
    let error = error_of(runtime.client().buffer_from_host(&[0; 7], ElementType::F32, &[2], 0));
    assert!(error.contains("expected 8 for F32[2], found 7"), "{error}");
}

#[test]
fn the_runtime_says_what_it_is() {
    let Some(runtime) = support::runtime(8) else { return };
    assert_eq!(runtime.platform(), Platform::Cpu);
    assert_eq!(runtime.client().platform_name().unwrap(), "cpu");
    assert_eq!(runtime.devices().len(), 8);
    let ids: Vec<i32> = runtime.devices().iter().map(|device| device.id()).collect();
    assert!((1..8).all(|i| !ids[..i].contains(&ids[i])), "{ids:?}");
    let line = runtime.describe();
    assert!(line.starts_with("cpu, 8 x ") && line.contains("PJRT C API 0."), "{line}");
}

#[test]
fn an_accelerator_that_is_absent_is_one_sentence_within_a_second() {
    support::prepare();
    for platform in [Platform::Tpu, Platform::Cuda] {
        if pjrt::plugin::require_devices(platform).is_ok() {
            eprintln!("skipped: this machine has a device of platform {platform}");
            continue;
        }
        let start = std::time::Instant::now();
        let options = RuntimeOptions { platform: PlatformRequest::Only(platform), ..Default::default() };
        let error = error_of(Runtime::start(&options));
        assert!(
            error.starts_with(&format!("platform {platform} was asked for, but this machine has no ")),
            "{error}"
        );
        assert!(error.contains("--platform cpu"), "{error}");
        assert!(start.elapsed().as_secs_f64() < 1.0);
    }
}

#[test]
fn a_plugin_of_another_platform_or_no_plugin_is_refused() {
    let Some(runtime) = support::runtime(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("plugin.so");
    std::fs::write(&text, "no library").unwrap();
    let start = |plugin: &Path| {
        let options = RuntimeOptions { plugin: Some(plugin.to_owned()), ..Default::default() };
        error_of(Runtime::start(&options))
    };
    assert!(start(&text).starts_with("cannot load the plugin "), "{}", start(&text));
    assert!(start(Path::new("/nowhere.so")).contains("does not exist"));
    let libc = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"];
    if let Some(library) = libc.into_iter().map(Path::new).find(|path| path.exists()) {
        assert!(start(library).contains("does not export GetPjrtApi"), "{}", start(library));
    }
    assert_eq!(runtime.plugin().platform, Platform::Cpu);
}

#[test]
fn errors_of_the_runtime_are_errors() {
    fn is_error<E: std::error::Error + Send + Sync + 'static>() {}
    fn is_shared<T: Send + Sync>() {}
    is_error::<RuntimeError>();
    is_shared::<Runtime>();
    is_shared::<runtime::Program>();
    is_shared::<Replicated>();
}
