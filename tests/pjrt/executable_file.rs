//! Executables through a file, on the CPU plugin.

use tpu_train::runtime::Arg;

use super::{ELEMENTS, error_of, expected, inputs, module};
use crate::support;

#[test]
fn an_executable_from_a_file_computes_the_same() {
    let Some(runtime) = support::runtime(8) else { return };
    let module = module::all_reduce_loop(ELEMENTS);
    let compiled = runtime.compile(&module, 2, None).unwrap();
    let payload = match compiled.executable().executable().serialize() {
        Ok(payload) => payload,
        Err(error) => panic!("{error}"),
    };
    let file = runtime.executable_header(&module, 2).unwrap().file(&payload).unwrap();
    let loaded = runtime.load(&module, 2, &file).unwrap();
    let (state, x) = inputs(&runtime, 2);
    let outputs = loaded.execute(vec![Arg::Donate(state), Arg::Borrow(&x)]).unwrap();
    assert_eq!(outputs[0].fetch(1).unwrap().to_f32().unwrap(), expected(2));

    let other = module::all_reduce_loop(ELEMENTS + 1);
    let error = error_of(runtime.load(&other, 2, &file));
    assert!(error.contains("another program"), "{error}");
    let error = error_of(runtime.load(&module, 3, &file));
    assert!(error.contains("it is for 2 devices, 0 to 1, this run has 3 devices"), "{error}");
}
