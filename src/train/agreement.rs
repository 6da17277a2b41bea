//! What the processes of a job must have in common, compared and shared by the devices' own collectives.
//!
//! Before the first step every process puts a digest of each subject (its programs, settings, windows) on its
//! devices; one all-reduce takes the least and the greatest of each word, and a word that has two values is a subject
//! in which the processes differ. Then process 0's initial state replaces that of the others, so that a host which
//! holds no saved model, or an old one, begins where process 0 does. A job of one process skips both.

use super::session::Session;
use crate::model::step::Program;
use crate::runtime::{Arg, HostTensor};
use anyhow::{Result, bail};
use sha2::{Digest, Sha256};
use tpu_train_hlo::{Comparison, ElementType, Graph, Reducer, Shape, Value, lower};

/// Words of a subject's digest: 128 bits of its SHA-256.
const WORDS: usize = 4;

/// The subjects of a comparison, each with the digest that this process has of it.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    names: Vec<&'static str>,
    words: Vec<i32>,
}

impl Agreement {
    /// Adds a subject, such as `the settings`.
    pub fn on(mut self, name: &'static str, bytes: &[u8]) -> Self {
        self.names.push(name);
        self.words.extend(
            Sha256::digest(bytes).as_chunks().0.iter().take(WORDS).map(|&word| i32::from_le_bytes(word)),
        );
        self
    }

    /// Compares the subjects over all processes of the session's job.
    ///
    /// # Errors
    /// The names of the subjects in which they differ; or the devices fail.
    pub fn check(&self, session: &Session) -> Result<()> {
        if session.share.is_whole() {
            return Ok(());
        }
        self.expect_same(session, &vec![self; session.share.replicas.len()])
    }

    /// As [`Self::check`], with what each replica of this process brings: the same subjects.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn expect_same(&self, session: &Session, replicas: &[&Self]) -> Result<()> {
        let words: Vec<i32> = replicas.iter().flat_map(|replica| &replica.words).copied().collect();
        let program = extremes(self.words.len(), session.mesh.replicas())?;
        let [least, greatest] = &run(session, program, &words)?[..] else {
            bail!("the comparison of the processes gave no two outputs");
        };
        let pairs = least.chunks(WORDS).zip(greatest.chunks(WORDS));
        let differ: Vec<&str> =
            self.names.iter().zip(pairs).filter(|(_, (a, b))| a != b).map(|(name, _)| *name).collect();
        if differ.is_empty() {
            return Ok(());
        }
        bail!(
            "the {} processes of this job differ in {}; start the same build with the same arguments and data on \
             every host",
            session.share.processes,
            differ.join(" and ")
        )
    }
}

/// The words that the job's first replica has, on every process; `words` are those of each replica of this process,
/// one after another.
///
/// # Errors
/// The devices fail.
pub fn of_first(session: &Session, words: &[i32]) -> Result<Vec<i32>> {
    let count = words.len() / session.share.replicas.len();
    match run(session, first(count, session.mesh.replicas())?, words)?.pop() {
        Some(words) => Ok(words),
        None => bail!("the first replica's words did not come"),
    }
}

fn run(session: &Session, program: Program, words: &[i32]) -> Result<Vec<Vec<i32>>> {
    let program = session.compile(program)?;
    let words = HostTensor::from_i32(words, &[words.len()]);
    let words = session.runtime.shard(&words, session.share.replicas.len())?;
    let outputs = program.execute(vec![Arg::Borrow(&words)])?;
    outputs.iter().map(|output| Ok(output.fetch(0)?.to_i32()?)).collect()
}

/// The least and the greatest of each word over all replicas.
fn extremes(words: usize, replicas: usize) -> Result<Program> {
    let mut g = Graph::new("agreement");
    let own = g.parameter("words", Shape::new(ElementType::S32, &[words]));
    let outputs = if replicas == 1 {
        vec![own; 2]
    } else {
        vec![g.all_reduce(own, Reducer::Min), g.all_reduce(own, Reducer::Max)]
    };
    program(&g, &outputs)
}

/// The words of replica 0: everybody else adds zeros.
fn first(words: usize, replicas: usize) -> Result<Program> {
    let mut g = Graph::new("first_state");
    let own = g.parameter("words", Shape::new(ElementType::S32, &[words]));
    let replica = g.replica_id();
    let zero = g.scalar(ElementType::U32, 0.0);
    let is_first = g.compare(replica, zero, Comparison::Eq);
    let is_first = g.convert(is_first, ElementType::S32);
    let is_first = g.broadcast(is_first, &[words], &[]);
    let kept = g.mul(own, is_first);
    let sum = if replicas == 1 { kept } else { g.all_reduce(kept, Reducer::Add) };
    program(&g, &[sum])
}

fn program(g: &Graph, outputs: &[Value]) -> Result<Program> {
    Ok(Program { module: lower(g, outputs, &[])?, outputs: outputs.len() })
}
