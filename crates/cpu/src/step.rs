//! What every part of a forward step shares: the model, the threads, the tokens, the observer.

use ds4_model::{Place, Probe, Stage};

use crate::acts::{ActForm, Acts};
use crate::batch::Batch;
use crate::matmul::{Job, matmul};
use crate::model::{Model, mat};
use crate::pool::Pool;

/// One forward step.
pub(crate) struct Step<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its threads.
    pub pool: &'a Pool,
    /// The tokens.
    pub batch: &'a Batch,
    /// The observer, if there is one.
    pub probe: Option<&'a mut (dyn Probe + 'static)>,
}

impl Step<'_> {
    /// Whether stages are observed; what only an observer needs is computed only then.
    pub(crate) fn observed(&self) -> bool {
        self.probe.is_some()
    }

    /// Shows the observer one row of `shape` values per token, part by part.
    pub(crate) fn record(&mut self, place: Place, stage: Stage, shape: &[usize], data: &[f32]) {
        let Some(probe) = self.probe.as_deref_mut() else { return };
        let width: usize = shape.iter().product();
        for part in &self.batch.parts {
            let mut full = vec![part.n];
            full.extend_from_slice(shape);
            probe.record(place, stage, part.pos0, &full, part.rows(data, width));
        }
    }

    /// Shows the observer rows that are not one per token.
    pub(crate) fn record_rows(
        &mut self,
        place: Place,
        stage: Stage,
        pos0: u32,
        width: usize,
        data: &[f32],
    ) {
        if let Some(probe) = self.probe.as_deref_mut() {
            probe.record(place, stage, pos0, &[data.len() / width, width], data);
        }
    }

    /// One product with all rows of `x`, in the form `w` wants.
    pub(crate) fn product(&self, w: &ds4_model::Matrix, x: &mut Acts, out: &mut [f32]) {
        let form = self.model.form(w);
        x.quantise(self.pool, &[form]);
        matmul(self.pool, &mut [Job::new(mat(w), x, form, out)]);
    }

    /// Prepares `x` for every product with these matrices.
    pub(crate) fn prepare<'w>(
        &self,
        x: &mut Acts,
        matrices: impl IntoIterator<Item = &'w ds4_model::Matrix>,
    ) {
        let int8 = matrices.into_iter().any(|w| self.model.form(w) == ActForm::Q8_0);
        if int8 {
            x.quantise(self.pool, &[ActForm::Q8_0]);
        }
    }

    /// A product in the form `w` wants; `x` has been prepared.
    pub(crate) fn job<'j>(
        &self,
        w: &'j ds4_model::Matrix,
        x: &'j Acts,
        out: &'j mut [f32],
    ) -> Job<'j> {
        Job::new(mat(w), x, self.model.form(w), out)
    }
}
