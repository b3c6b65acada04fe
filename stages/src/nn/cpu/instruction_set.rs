//! Which instructions the kernels use. Every instruction set gives the same bits (`docs/arithmetic.md`), so the choice is one
//! of speed: the best that the CPU has, or the one that the environment variable `REPRO_CPU` names. It knows no kernel.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// The environment variable that chooses: `avx512`, `avx2` or `scalar`.
pub const VARIABLE: &str = "REPRO_CPU";

/// Instructions that kernels are compiled for, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum InstructionSet {
    /// What every CPU of the architecture has.
    Scalar,
    /// AVX2 with fused multiply-add: 8 values in a register.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 values in a register.
    Avx512,
}

impl InstructionSet {
    /// All of them, the slowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The name that [`VARIABLE`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has it.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Scalar => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Self::Scalar)
    }

    /// Those that this CPU has, the slowest first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_supported())
    }

    /// The fastest that this CPU has.
    pub fn best() -> Self {
        Self::supported().last().unwrap_or(Self::Scalar)
    }

    /// The one that `value` of [`VARIABLE`] names, the best without one.
    ///
    /// # Errors
    /// A name that is unknown, or of an instruction set that this CPU lacks.
    pub fn choose(value: Option<&str>) -> Result<Self, String> {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Ok(Self::best());
        };
        let list = |sets: &mut dyn Iterator<Item = Self>| {
            let mut names: Vec<&str> = sets.map(Self::name).collect();
            names.reverse();
            names.join(", ")
        };
        let Some(set) = Self::ALL.into_iter().find(|set| set.name() == value) else {
            let known = list(&mut Self::ALL.into_iter());
            return Err(format!("{VARIABLE} is `{value}`; it can be {known}"));
        };
        if !set.is_supported() {
            let has = list(&mut Self::supported());
            return Err(format!(
                "{VARIABLE} is `{value}`, which this CPU does not support; it supports {has}"
            ));
        }
        Ok(set)
    }

    /// The one that the environment names.
    ///
    /// # Errors
    /// As [`InstructionSet::choose`].
    pub fn from_environment() -> Result<Self, String> {
        let value = std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned());
        Self::choose(value.as_deref())
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The instruction set in use, plus one; 0 before the first use.
static SELECTED: AtomicU8 = AtomicU8::new(0);

/// The instruction set that kernels use.
///
/// # Panics
/// The first call, where the environment names one that is unknown or not supported. A program checks
/// [`InstructionSet::from_environment`] first.
#[inline]
pub fn selected() -> InstructionSet {
    match SELECTED.load(Ordering::Relaxed) {
        0 => {
            let set = InstructionSet::from_environment().unwrap_or_else(|error| panic!("{error}"));
            SELECTED.store(set as u8 + 1, Ordering::Relaxed);
            set
        }
        number => InstructionSet::ALL[usize::from(number) - 1],
    }
}

/// Makes kernels use `set` from now on, in all threads.
///
/// # Errors
/// An instruction set that this CPU lacks.
pub fn select(set: InstructionSet) -> Result<(), String> {
    InstructionSet::choose(Some(set.name()))?;
    SELECTED.store(set as u8 + 1, Ordering::Relaxed);
    Ok(())
}

/// Defines a function whose body is compiled once for each instruction set; a call runs the version that is [`selected`].
///
/// The compiler contracts no multiplication and addition by itself, so all versions give the same bits as long as the body
/// does not ask for the width of a register. Sums run over a fixed number of lanes, as in `fused::math`.
macro_rules! per_instruction_set {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "instructions that not every CPU has")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($argument: $type),*) {
                    body($($argument),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) {
                    body($($argument),*);
                }
                match $crate::nn::cpu::selected() {
                    // SAFETY: only what the CPU supports is ever selected.
                    $crate::nn::cpu::InstructionSet::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::nn::cpu::InstructionSet::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::nn::cpu::InstructionSet::Scalar => {}
                }
            }
            body($($argument),*);
        }
    };
}
pub(crate) use per_instruction_set;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_an_instruction_set_that_the_cpu_has() {
        assert_eq!(InstructionSet::choose(None), Ok(InstructionSet::best()));
        assert_eq!(InstructionSet::choose(Some("")), Ok(InstructionSet::best()));
        assert_eq!(InstructionSet::choose(Some("scalar")), Ok(InstructionSet::Scalar));
        let unknown = InstructionSet::choose(Some("AVX2")).unwrap_err();
        assert_eq!(unknown, "REPRO_CPU is `AVX2`; it can be avx512, avx2, scalar");
        for set in InstructionSet::ALL {
            let chosen = InstructionSet::choose(Some(set.name()));
            assert_eq!(chosen.is_ok(), set.is_supported(), "{set}");
            if let Err(error) = chosen {
                assert!(error.contains("does not support"), "{error}");
            }
        }
    }
}
