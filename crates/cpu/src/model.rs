//! A loaded model as the CPU sees it: numbers, weights, rotations and the form every product's
//! activations take.

use std::sync::Arc;

use ds4_model::{Dims, Matrix, ModelFile, Numerics, Result, Weights};

use crate::acts::ActForm;
use crate::matmul::Mat;
use crate::residency::Tiers;
use crate::rope::Rope;

/// Everything that does not change while a model runs.
#[derive(Debug)]
pub(crate) struct Model {
    /// The model's numbers.
    pub dims: Dims,
    /// The weights, in their files.
    pub weights: Weights,
    /// Which roundings are simulated.
    pub numerics: Numerics,
    /// Rotations of window layers and of compressed ones.
    pub ropes: [Rope; 2],
    /// Which experts are in memory, where that is limited.
    pub tiers: Option<Tiers>,
    /// The files, for their identity; keeps them mapped.
    pub file: Arc<ModelFile>,
}

impl Model {
    /// Refuses shapes for which the simulated roundings have no whole blocks, and limits of the
    /// weights' memory that are too small.
    pub(crate) fn new(
        file: Arc<ModelFile>,
        numerics: Numerics,
        weights_bytes_max: Option<u64>,
    ) -> Result<Self> {
        let dims = file.dims.clone();
        dims.check_numerics(&numerics)?;
        let ropes = [0, 1].map(|ratio| Rope::new(&dims, ratio, numerics));
        let tiers = weights_bytes_max.map_or(Ok(None), |limit| Tiers::new(&file, limit))?;
        Ok(Self { weights: file.weights.clone(), dims, numerics, ropes, tiers, file })
    }

    /// The rotation of layers with this ratio.
    pub(crate) fn rope(&self, ratio: usize) -> &Rope {
        &self.ropes[usize::from(ratio != 0)]
    }

    /// What a dense matrix reads: int8 in front of `Q8_0` matrices of profile G, else f32.
    pub(crate) fn form(&self, w: &Matrix) -> ActForm {
        let int8 = self.numerics.act_q8 && w.ty == ds4_gguf::TensorType::Q8_0;
        if int8 { ActForm::Q8_0 } else { ActForm::F32 }
    }

    /// What routed experts read, whatever their format (§2.0).
    pub(crate) fn expert_form(&self) -> ActForm {
        if self.numerics.act_q8 { ActForm::Q8K } else { ActForm::F32 }
    }
}

/// A whole matrix as an operand.
pub(crate) fn mat(w: &Matrix) -> Mat<'_> {
    Mat { name: &w.name, ty: w.ty, rows: w.rows, cols: w.cols, data: w.bytes() }
}

/// Matrix `ix` of a stack as an operand.
pub(crate) fn mat_of(w: &Matrix, ix: usize) -> Mat<'_> {
    Mat { name: &w.name, ty: w.ty, rows: w.rows, cols: w.cols, data: w.slice(ix) }
}
