//! A recorder of stages: what a backend computed, as whole arrays under the references' names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::npy::{Array, Elem};
use crate::{Place, Probe, Stage};

/// Collects every stage of one sequence; clones share what is collected.
///
/// Give a clone to [`crate::Runner::set_probe`], run one sequence with ascending positions, then
/// [`Recorder::take`] the arrays.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    chunks: Arc<Mutex<Chunks>>,
    /// Output states of the trunk's layers, `[tokens, n_hc, n_embd]`.
    forced: Arc<Vec<Array>>,
}

type Chunks = BTreeMap<(Place, Stage), Vec<Array>>;

/// Whole arrays by name, such as `L3.hidden`; shapes are those of `ref_index.json`.
pub type Stages = BTreeMap<String, Array>;

impl Recorder {
    /// A recorder that lets the runner's own states pass.
    pub fn new() -> Self {
        Self::default()
    }

    /// A recorder that gives layer `i` the state `hidden[i - 1]` of a reference as its input, so
    /// that every layer is compared on its own.
    pub fn forcing(hidden: Vec<Array>) -> Self {
        Self { forced: Arc::new(hidden), ..Self::default() }
    }

    /// All that was collected so far; the recorder is empty afterwards.
    ///
    /// # Panics
    /// If chunks of one stage disagree in their shape.
    pub fn take(&self) -> Stages {
        let chunks = std::mem::take(&mut *self.lock());
        chunks.into_iter().map(|((p, s), chunks)| (p.name(s), join(s, &chunks))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().expect("no holder panics")
    }
}

impl Probe for Recorder {
    fn record(&mut self, place: Place, stage: Stage, _pos0: u32, shape: &[usize], data: &[f32]) {
        let chunk = Array::new(shape.to_vec(), data.to_vec());
        self.lock().entry((place, stage)).or_default().push(chunk);
    }

    fn force_hidden(&mut self, layer: usize, pos0: u32, t: usize) -> Option<Vec<f32>> {
        let state = self.forced.get(layer.checked_sub(1)?)?;
        let (pos, width) = (pos0 as usize, state.width());
        assert!(pos + t <= state.rows(), "{} forced tokens, not {}", state.rows(), pos + t);
        Some(state.data[pos * width..(pos + t) * width].to_vec())
    }
}

/// Chunks one after the other. Scores get as many columns as the last token sees rows.
fn join(stage: Stage, chunks: &[Array]) -> Array {
    let rows = chunks.iter().map(Array::rows).sum();
    if stage == Stage::IndexScores {
        let width = chunks.iter().map(Array::width).max().unwrap_or(0);
        let mut data = Vec::with_capacity(rows * width);
        for chunk in chunks {
            for row in 0..chunk.rows() {
                data.extend_from_slice(chunk.row(row));
                data.resize(data.len() + width - chunk.width(), f32::NEG_INFINITY);
            }
        }
        return Array::new(vec![rows, width], data);
    }
    let mut shape = chunks[0].shape.clone();
    assert!(chunks.iter().all(|c| c.shape[1..] == shape[1..]), "{stage}: ragged chunks");
    shape[0] = rows;
    Array::new(shape, chunks.iter().flat_map(|c| &c.data).copied().collect())
}

impl Stage {
    /// The stage with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Element type of the stage in files.
    pub fn elem(self) -> Elem {
        match self {
            Self::IndexTopk | Self::RouterIds => Elem::I64,
            _ => Elem::F32,
        }
    }
}

impl Place {
    /// Place and stage of a full name such as `L3.hidden`, `mtp.logits` or `final_norm`.
    pub fn parse(name: &str) -> Option<(Self, Stage)> {
        let Some((place, stage)) = name.split_once('.') else {
            return Some((Self::Head, Stage::from_name(name)?));
        };
        let place = match place.strip_prefix('L') {
            Some(layer) => Self::Layer(layer.parse().ok()?),
            None if place == "mtp" => Self::Mtp,
            None => return None,
        };
        Some((place, Stage::from_name(stage)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        for stage in Stage::ALL {
            for place in [Place::Layer(0), Place::Layer(42), Place::Mtp, Place::Head] {
                assert_eq!(Place::parse(&place.name(stage)), Some((place, stage)));
            }
        }
        for wrong in ["", "L.hidden", "Lx.hidden", "L1.hiden", "head.logits", "decode_logits"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn chunks_become_whole_arrays() {
        let recorder = Recorder::new();
        let mut probe: Box<dyn Probe> = Box::new(recorder.clone());
        let place = Place::Layer(2);
        probe.record(place, Stage::KvRaw, 0, &[2, 3], &[1.0; 6]);
        probe.record(place, Stage::KvRaw, 2, &[1, 3], &[2.0; 3]);
        probe.record(place, Stage::CompRows, 0, &[0, 3], &[]);
        probe.record(place, Stage::CompRows, 2, &[1, 3], &[3.0; 3]);
        probe.record(place, Stage::IndexScores, 0, &[2, 0], &[]);
        probe.record(place, Stage::IndexScores, 2, &[1, 2], &[4.0, 5.0]);
        let all = recorder.take();
        assert_eq!(all["L2.kv_raw"].shape, [3, 3]);
        assert_eq!(all["L2.kv_raw"].row(2), [2.0; 3]);
        assert_eq!(all["L2.comp_rows"], Array::new(vec![1, 3], vec![3.0; 3]));
        let scores = &all["L2.index_scores"];
        assert_eq!(scores.shape, [3, 2]);
        assert_eq!(scores.row(1), [f32::NEG_INFINITY; 2]);
        assert_eq!(scores.row(2), [4.0, 5.0]);
        assert!(recorder.take().is_empty());
    }

    #[test]
    fn forced_states_are_the_inputs_of_the_next_layer() {
        let state = |x: f32| Array::new(vec![4, 1, 2], (0..8).map(|i| x + i as f32).collect());
        let mut recorder = Recorder::forcing(vec![state(0.0), state(100.0)]);
        assert_eq!(recorder.force_hidden(0, 0, 4), None, "layer 0 reads the embedding");
        assert_eq!(recorder.force_hidden(1, 1, 2), Some(vec![2.0, 3.0, 4.0, 5.0]));
        assert_eq!(recorder.force_hidden(2, 3, 1), Some(vec![106.0, 107.0]));
        assert_eq!(recorder.force_hidden(3, 0, 1), None, "no reference for this layer");
        assert_eq!(Recorder::new().force_hidden(1, 0, 1), None);
    }
}
