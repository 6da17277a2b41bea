use crate::support::judge;

#[test]
fn the_judge_is_keras_on_jax() {
    let Some(judge) = judge::python() else { return };
    let said = judge
        .run("import keras, sys; print(keras.__version__, keras.backend.backend(), sys.argv[1])", &["yes"]);
    assert_eq!(said.trim(), "3.15.0 jax yes");
}
