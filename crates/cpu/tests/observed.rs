//! Steering, and what a probe sees of the routed experts: both against the stages they follow from.

mod common;

use std::sync::{Arc, Mutex};

use common::{assert_same_bits, feed, runner, some_tokens, tiny};
use ds4_model::{
    Dims, ExpertInputs, ModelFile, Numerics, Place, Probe, Recorder, Runner, Stage, Stages,
    Steering,
};

const N: usize = 20;

/// Logits and stages of some tokens.
fn run(model: &Arc<ModelFile>) -> (Vec<f32>, Stages) {
    let mut r = runner(model, Numerics::PLAIN);
    let recorder = Recorder::new();
    r.set_probe(Some(Box::new(recorder.clone())));
    let seq = r.open_seq(64).expect("a small context");
    let logits = feed(&mut r, seq, &some_tokens(N, model.dims.n_vocab, 3));
    (logits, recorder.take())
}

fn directions(dims: &Dims) -> Vec<f32> {
    (0..dims.n_layer * dims.n_embd).map(|i| ((i * 37 % 101) as f32 - 50.0) / 400.0).collect()
}

fn steered(attn: f32, ffn: f32) -> Arc<ModelFile> {
    let mut model = ds4_model::testing::tiny();
    let bytes: Vec<u8> = directions(&model.dims).iter().flat_map(|v| v.to_le_bytes()).collect();
    let steering = Steering::from_bytes(&bytes, &model.dims, attn, ffn).expect("the right length");
    model.steer(steering);
    Arc::new(model)
}

/// `y − scale·v·(v·y)` of every row.
fn moved(rows: &[f32], v: &[f32], scale: f32) -> Vec<f32> {
    let share = |y: &[f32]| v.iter().zip(y).map(|(v, y)| v * y).sum::<f32>();
    let row = |y: &[f32]| {
        let share = scale * share(y);
        y.iter().zip(v).map(move |(y, v)| y - share * v).collect::<Vec<f32>>()
    };
    rows.chunks_exact(v.len()).flat_map(row).collect()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < 1e-5, "{what}: {f}, expected {e}");
    }
}

#[test]
fn steering_moves_the_outputs_along_the_directions() {
    let (plain_logits, plain) = run(&tiny());
    let v = directions(&tiny().dims);
    let v0 = &v[..tiny().dims.n_embd];

    let (logits, _) = run(&steered(0.0, 0.0));
    assert_same_bits(&logits, &plain_logits, "scales of zero");

    // Up to the first layer's attention nothing has been moved yet.
    let (logits, found) = run(&steered(2.5, 0.0));
    let expected = moved(&plain["L0.attn_out"].data, v0, 2.5);
    assert_near(&found["L0.attn_out"].data, &expected, "attention");
    assert_ne!(logits, plain_logits);

    let (_, found) = run(&steered(0.0, -1.5));
    assert_same_bits(&found["L0.attn_out"].data, &plain["L0.attn_out"].data, "attention");
    let expected = moved(&plain["L0.ffn_out"].data, v0, -1.5);
    assert_near(&found["L0.ffn_out"].data, &expected, "FFN");
    assert_ne!(found["L1.hidden"].data, plain["L1.hidden"].data);
}

/// Checks the experts' inputs of every layer against the stages recorded before them.
#[derive(Clone, Default)]
struct Inputs {
    seen: Arc<Mutex<Vec<Place>>>,
    norm: Vec<f32>,
    ids: Vec<f32>,
    weights: Vec<f32>,
    n_expert_used: usize,
}

impl Probe for Inputs {
    fn record(&mut self, _: Place, stage: Stage, _: u32, shape: &[usize], data: &[f32]) {
        match stage {
            Stage::FfnNorm => self.norm = data.to_vec(),
            Stage::RouterIds => {
                self.n_expert_used = shape[1];
                self.ids = data.to_vec();
            }
            Stage::RouterWeights => self.weights = data.to_vec(),
            _ => {}
        }
    }

    fn experts(&mut self, place: Place, inputs: ExpertInputs<'_>) {
        assert_same_bits(inputs.gate_up, &self.norm, "gate and up read the normed input");
        let mut pairs = Vec::new();
        for (e, bounds) in (0u16..).zip(inputs.bounds.windows(2)) {
            for slot in bounds[0]..bounds[1] {
                pairs.push((inputs.token_of[slot as usize], f32::from(e)));
            }
        }
        let used = self.n_expert_used;
        let mut expected: Vec<_> = (0u32..)
            .zip(self.ids.chunks_exact(used))
            .flat_map(|(t, ids)| ids.iter().map(move |id| (t, *id)))
            .collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
        pairs.sort_unstable_by(order);
        expected.sort_unstable_by(order);
        assert_eq!(pairs, expected, "{place:?}");
        assert_eq!(inputs.down.len() % pairs.len(), 0);
        assert!(inputs.down.iter().any(|v| *v != 0.0));
        self.seen.lock().expect("no holder panics").push(place);
    }
}

#[test]
fn a_probe_sees_what_every_expert_reads() {
    let model = tiny();
    let mut r = runner(&model, Numerics::PLAIN);
    let probe = Inputs::default();
    r.set_probe(Some(Box::new(probe.clone())));
    let seq = r.open_seq(64).expect("a small context");
    feed(&mut r, seq, &some_tokens(N, model.dims.n_vocab, 3));
    let seen = probe.seen.lock().expect("no holder panics");
    let trunk = (0..model.dims.n_layer).map(Place::Layer);
    assert!(trunk.clone().all(|place| seen.contains(&place)), "{seen:?}");
}
