//! Which tensor gets which type: the published files' layouts, and the user's overrides.

use ds4_gguf::TensorType;

use crate::{Error, Result};

/// What a tensor is for, told by its name (architecture.md §5.3, §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// `token_embd`.
    Embedding,
    /// `output`.
    Head,
    /// Attention projections and the projections of the MTP block.
    Attention,
    /// Shared expert.
    Shared,
    /// Gate and up of the routed experts.
    ExpertGateUp,
    /// Down of the routed experts.
    ExpertDown,
    /// Compressor projections.
    Compressor,
    /// Position tables of compressors: too small to gain anything below F16.
    Position,
    /// Indexer projections and its compressor.
    Indexer,
    /// Router.
    Router,
    /// Hyper-connection mixing matrices.
    Hyper,
    /// Norms, biases, sinks, scales: always F32.
    Small,
    /// Token-to-expert tables: always I32.
    Table,
}

impl Class {
    /// The class of a tensor name; `None` for a tensor this model does not have.
    pub fn of(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"))?;
        let last = match stem.strip_prefix("blk.").or_else(|| stem.strip_prefix("mtp.")) {
            Some(rest) => rest.split_once('.')?.1,
            None => stem,
        };
        Some(match last {
            "token_embd" => Self::Embedding,
            "output" => Self::Head,
            "ffn_gate_exps" | "ffn_up_exps" => Self::ExpertGateUp,
            "ffn_down_exps" => Self::ExpertDown,
            "ffn_gate_shexp" | "ffn_up_shexp" | "ffn_down_shexp" => Self::Shared,
            "ffn_gate_inp" => Self::Router,
            "ffn_gate_tid2eid" => Self::Table,
            "attn_q_a" | "attn_q_b" | "attn_kv" | "attn_output_a" | "attn_output_b" | "e_proj"
            | "h_proj" => Self::Attention,
            "output_hc_fn" | "hc_attn_fn" | "hc_ffn_fn" | "hc_head_fn" => Self::Hyper,
            "attn_compressor_kv" | "attn_compressor_gate" => Self::Compressor,
            "attn_compressor_ape" | "indexer_compressor_ape" => Self::Position,
            "indexer.attn_q_b"
            | "indexer.proj"
            | "indexer_compressor_kv"
            | "indexer_compressor_gate" => Self::Indexer,
            other if is_small(other) => Self::Small,
            _ => return None,
        })
    }

    /// Word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Attention => "attention",
            Self::Shared => "shared expert",
            Self::ExpertGateUp => "experts gate, up",
            Self::ExpertDown => "experts down",
            Self::Compressor => "compressor",
            Self::Position => "compressor positions",
            Self::Indexer => "indexer",
            Self::Router => "router",
            Self::Hyper => "hyper-connections",
            Self::Small => "norms and biases",
            Self::Table => "hash tables",
        }
    }
}

fn is_small(name: &str) -> bool {
    name.ends_with("norm")
        || ["_base", "_scale", "sinks"].iter().any(|end| name.ends_with(end))
        || name == "exp_probs_b"
}

/// A named set of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Experts `IQ2_XXS` and `Q2_K`, attention, shared experts and head `Q8_0`, the rest F16.
    Q2,
    /// Experts `Q4_K`, else as `Q2`.
    Q4,
    /// Experts MXFP4, else as `Q2`.
    Mxfp4,
    /// All matrices `Q8_0` but the small ones of router and hyper-connections, which are F16.
    Q8,
    /// All matrices F16.
    F16,
    /// Everything F32.
    F32,
}

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 6] = [Self::Q2, Self::Q4, Self::Mxfp4, Self::Q8, Self::F16, Self::F32];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q2 => "q2",
            Self::Q4 => "q4",
            Self::Mxfp4 => "mxfp4",
            Self::Q8 => "q8_0",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The recipe of this name.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|r| r.name()).collect();
            Error::Option(format!("no recipe {name:?}; choose one of {}", known.join(", ")))
        })
    }

    /// The type of a tensor.
    pub fn type_of(self, class: Class, is_mtp: bool) -> TensorType {
        match (class, self) {
            (Class::Small, _) | (_, Self::F32) if class != Class::Table => TensorType::F32,
            (Class::Table, _) => TensorType::I32,
            (_, Self::F16) | (Class::Router | Class::Hyper | Class::Position, Self::Q8) => {
                TensorType::F16
            }
            (_, Self::Q8) => TensorType::Q8_0,
            _ => self.published(class, is_mtp),
        }
    }

    /// The published files' types. Their MTP block has F32 routers and hyper-connections, and
    /// `Q4_K` experts whatever the trunk has.
    fn published(self, class: Class, is_mtp: bool) -> TensorType {
        match class {
            Class::Attention | Class::Shared | Class::Head => TensorType::Q8_0,
            Class::Router | Class::Hyper if is_mtp => TensorType::F32,
            Class::ExpertGateUp | Class::ExpertDown => match self {
                Self::Mxfp4 if !is_mtp => TensorType::Mxfp4,
                Self::Q2 if !is_mtp && class == Class::ExpertGateUp => TensorType::Iq2Xxs,
                Self::Q2 if !is_mtp => TensorType::Q2K,
                _ => TensorType::Q4K,
            },
            _ => TensorType::F16,
        }
    }
}

/// A user's wish for the tensors whose names contain a text, or match it with `*` for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pattern: String,
    ty: TensorType,
}

impl Override {
    /// Parses `PATTERN=TYPE`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            let types: Vec<String> =
                TensorType::ALL.iter().map(|t| t.name().to_lowercase()).collect();
            Error::Option(format!("{text:?} is not PATTERN=TYPE with one of {}", types.join(", ")))
        };
        let (pattern, ty) = text.rsplit_once('=').ok_or_else(wrong)?;
        let ty = TensorType::ALL
            .into_iter()
            .find(|t| t.name().eq_ignore_ascii_case(ty))
            .filter(|_| !pattern.is_empty())
            .ok_or_else(wrong)?;
        Ok(Self { pattern: pattern.to_owned(), ty })
    }

    /// The type, if the name matches.
    pub fn type_for(&self, name: &str) -> Option<TensorType> {
        let mut rest = name;
        for part in self.pattern.split('*') {
            rest = &rest[rest.find(part)? + part.len()..];
        }
        Some(self.ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_name_has_a_class() {
        for (name, class) in [
            ("token_embd.weight", Class::Embedding),
            ("output.weight", Class::Head),
            ("output_norm.weight", Class::Small),
            ("output_hc_fn.weight", Class::Hyper),
            ("output_hc_base.weight", Class::Small),
            ("blk.0.attn_sinks.weight", Class::Small),
            ("blk.17.attn_q_a_norm.weight", Class::Small),
            ("blk.17.attn_output_a.weight", Class::Attention),
            ("blk.2.attn_compressor_ape.weight", Class::Position),
            ("blk.2.indexer.attn_q_b.weight", Class::Indexer),
            ("blk.2.indexer_compressor_norm.weight", Class::Small),
            ("blk.2.ffn_gate_tid2eid.weight", Class::Table),
            ("blk.3.exp_probs_b.bias", Class::Small),
            ("blk.3.ffn_gate_inp.weight", Class::Router),
            ("blk.42.ffn_down_exps.weight", Class::ExpertDown),
            ("mtp.0.e_proj.weight", Class::Attention),
            ("mtp.0.enorm.weight", Class::Small),
            ("mtp.0.hc_head_fn.weight", Class::Hyper),
        ] {
            assert_eq!(Class::of(name), Some(class), "{name}");
        }
        assert_eq!(Class::of("blk.0.attn_k.weight"), None);
    }

    #[test]
    fn overrides_match_names() {
        let o = Override::parse("blk.3*_exps=q4_k").unwrap();
        assert_eq!(o.type_for("blk.37.ffn_up_exps.weight"), Some(TensorType::Q4K));
        assert_eq!(o.type_for("blk.4.ffn_up_exps.weight"), None);
        assert!(Override::parse("x=q9").is_err());
        assert!(Override::parse("=q8_0").is_err());
    }
}
