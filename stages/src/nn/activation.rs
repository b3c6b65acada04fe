//! Activations.

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with Φ the distribution function of the standard normal.
    Gelu,
    /// max(x, 0), with derivative 0 at 0 as in PyTorch.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}
