//! What operations compute with: memory, and the passes over it. An operation is written once, in passes; a [`Backend`] runs
//! them on the CPU ([`super::cpu`]) or on a GPU ([`super::gpu`]). It knows no operation.
//!
//! The order in which a pass adds up belongs to its backend, the formula to the operation.

use candle_core::{Result, Storage, Tensor};

use super::packing::Packing;
use super::{Activation, LayerNorm, Linear, Mask, Param};

/// Sizes of multi-head attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape<'a> {
    /// Sequences of the batch.
    pub batch: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Queries of a sequence, with padding.
    pub queries: usize,
    /// Keys of a sequence, with padding.
    pub keys: usize,
    /// Which rows the queries are, where they are without padding.
    pub packed_queries: Option<&'a Packing>,
    /// Which rows the keys are, where they are without padding.
    pub packed_keys: Option<&'a Packing>,
}

impl AttentionShape<'_> {
    /// The row of the first key of sequence `b`.
    pub fn first_key(&self, b: usize) -> usize {
        self.packed_keys.map_or(b * self.keys, |packing| packing.sequence(b).start)
    }
}

/// Columns of a row-major matrix: the `first` of them, and how far apart rows begin.
#[derive(Debug, Clone, Copy)]
pub struct Columns<V> {
    /// The matrix.
    pub values: V,
    /// The first column.
    pub first: usize,
    /// Values from one row to the next.
    pub stride: usize,
}

/// Queries, keys and values, each [rows, heads · width], heads next to each other.
#[derive(Debug, Clone, Copy)]
pub struct Projections<V> {
    /// [batch · queries, ..]
    pub query: Columns<V>,
    /// [batch · keys, ..]
    pub key: Columns<V>,
    /// [batch · keys, ..]
    pub value: Columns<V>,
}

/// Gradients of [`Projections`]: those that were side by side in one matrix are so here too.
#[derive(Debug)]
pub struct ProjectionGradients<B> {
    /// [batch · keys, 3 or 2 times heads · width]: of keys, of values and, where `query` is `None`, of queries.
    pub together: B,
    /// [batch · queries, heads · width], where queries were projected from another sequence.
    pub query: Option<B>,
}

/// What the backward pass of a LayerNorm needs.
#[derive(Debug)]
pub struct Normal<B> {
    /// The normalised rows before weight and bias, [rows, size].
    pub rows: B,
    /// 1 / √(variance + ε) of each row, [rows].
    pub scale: B,
}

/// The result of a LayerNorm, and what its backward pass needs where that was to be kept.
pub type Normed<B> = (B, Option<Normal<B>>);

/// What a LayerNorm normalises, given a product x: dropout(x), plus a residual.
#[derive(Debug, Clone, Copy)]
pub struct NormInput<'a, V> {
    /// Dropout of the product, and which rows it has.
    pub rows: RowMask<'a>,
    /// Added to what dropout leaves.
    pub residual: Option<V>,
}

/// Which rows a matrix has, and the dropout they are under.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowMask<'a> {
    /// Over the rows with padding.
    pub mask: Option<Mask>,
    /// Which rows they are, where they are without padding.
    pub packing: Option<&'a Packing>,
}

impl RowMask<'_> {
    /// The same rows without dropout.
    pub fn unmasked(self) -> Self {
        Self { mask: None, ..self }
    }
}

/// Gradients of what a LayerNorm read.
#[derive(Debug)]
pub struct NormGradients<B> {
    /// Of the product, before dropout.
    pub product: B,
    /// Of the sum of dropout(product) and residual; `None` where it was not asked for, or where there is no mask and it is
    /// `product`.
    pub sum: Option<B>,
}

impl<B> NormGradients<B> {
    /// The gradient of the residual.
    pub fn into_sum(self) -> B {
        self.sum.unwrap_or(self.product)
    }
}

/// The three tables of a text's embeddings.
#[derive(Debug, Clone)]
pub struct TextTables {
    /// [words, width]
    pub words: Param,
    /// [positions, width]
    pub positions: Param,
    /// [types, width], of which row 0 is added to every token.
    pub types: Param,
    /// The word whose row receives no gradient.
    pub pad: u32,
}

/// Memory of f32 values, and passes over it. Passes are queued in order; only [`Backend::values`] waits for them.
///
/// Lengths follow from the views; an operation checks shapes before it calls a pass, so a pass takes them for granted.
/// Every method fails only if the device does.
pub trait Backend: Send + Sync + Sized + 'static {
    /// Values of its own; the memory is free again when it is dropped.
    type Buffer: Send + Sync + std::fmt::Debug + 'static;
    /// Values to read.
    type View<'a>: Copy;
    /// The result of a product before the pass that reads it adds what is left: on a GPU partial sums and a bias.
    type Product<'a>;
    /// What attention keeps for its backward pass, beyond projections and result: probabilities or sums of exponentials.
    type Attended: Send + Sync + std::fmt::Debug + 'static;

    /// The values of a buffer.
    fn view<'a>(&self, buffer: &'a Self::Buffer) -> Self::View<'a>;
    /// The same values for a shorter time.
    fn reborrow<'a, 'b: 'a>(&self, view: Self::View<'b>) -> Self::View<'a>;
    /// The values of a contiguous f32 tensor on this backend's device; `storage` is its storage, locked for reading.
    fn view_storage<'a>(&self, storage: &'a Storage, range: std::ops::Range<usize>)
    -> Result<Self::View<'a>>;
    /// The buffer as the storage of a tensor.
    fn storage_of(&self, buffer: Self::Buffer) -> Storage;
    /// `count` zeros.
    fn zeros(&self, count: usize) -> Result<Self::Buffer>;
    /// A copy.
    fn copy(&self, values: Self::View<'_>) -> Result<Self::Buffer>;
    /// Sets all values to zero.
    fn clear(&self, buffer: &mut Self::Buffer) -> Result<()>;
    /// The buffer as memory that outlives an operation, and back.
    fn memory_of(&self, buffer: Self::Buffer) -> Memory;
    /// The buffer in `memory`, which this backend filled.
    fn buffer_in<'a>(&self, memory: &'a mut Memory) -> Result<&'a mut Self::Buffer>;
    /// The values in host memory. Waits for all passes.
    fn values(&self, buffer: &Self::Buffer) -> Result<Vec<f32>>;

    // Products.

    /// x Wᵀ + b, [rows, Σ out], of `layers` that read one `x` [rows, in], side by side.
    fn linear<'a>(&self, x: Self::View<'_>, layers: &[&'a Linear]) -> Result<Self::Product<'a>>;
    /// The same for an `x` that nothing else reads: its memory may be free before the result's is taken.
    fn linear_of<'a>(&self, x: Self::Buffer, layers: &[&'a Linear]) -> Result<Self::Product<'a>>;
    /// Σ gᵢ Wᵢ, [rows, in]: the gradient of what `layers` read, given that of their results side by side; added to `plus`.
    fn input_gradient(
        &self,
        grad: Self::View<'_>,
        layers: &[&Linear],
        plus: Option<Self::Buffer>,
    ) -> Result<Self::Product<'static>>;
    /// The same for a `grad` that nothing else reads: its memory may be free before the result's is taken.
    fn input_gradient_of(
        &self,
        grad: Self::Buffer,
        layers: &[&Linear],
        plus: Option<Self::Buffer>,
    ) -> Result<Self::Product<'static>>;
    /// Adds gᵢᵀ x to the gradients of the weights of `layers` and the sums of the rows of gᵢ to those of their biases, of
    /// those that are trained. The rows are those of `packing`, if there is one.
    fn linear_gradients(
        &self,
        grad: Self::View<'_>,
        x: Self::View<'_>,
        layers: &[&Linear],
        packing: Option<&Packing>,
    ) -> Result<()>;
    /// The whole result.
    fn finish(&self, product: Self::Product<'_>) -> Result<Self::Buffer>;
    /// Values as if they were the result of a product.
    fn as_product<'a>(&self, values: Self::View<'a>) -> Result<Self::Product<'a>>;
    /// A buffer as if it were the result of a product.
    fn product_of(&self, buffer: Self::Buffer) -> Self::Product<'static>;

    // Activations.

    /// f(x), and x where `keep`.
    fn activate(
        &self,
        x: Self::Product<'_>,
        activation: Activation,
        keep: bool,
    ) -> Result<(Self::Buffer, Option<Self::Buffer>)>;
    /// `grad` · f′(x), and f(x) where `again`.
    fn activate_backward(
        &self,
        grad: Self::Product<'_>,
        x: Self::Buffer,
        activation: Activation,
        again: bool,
    ) -> Result<(Self::Buffer, Option<Self::Buffer>)>;

    // LayerNorm.

    /// LayerNorm(dropout(x) + residual), and what the backward pass needs where `keep`.
    fn norm(
        &self,
        x: Self::Product<'_>,
        input: NormInput<'_, Self::View<'_>>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<Normed<Self::Buffer>>;
    /// LayerNorm(dropout(x)) and, apart from it, dropout(x) + residual: what an adapter begins with.
    #[allow(clippy::type_complexity, reason = "three results of one pass")]
    fn norm_apart(
        &self,
        x: Self::Product<'_>,
        rows: RowMask<'_>,
        residual: Self::View<'_>,
        norm: &LayerNorm,
        keep: bool,
    ) -> Result<(Self::Buffer, Self::Buffer, Option<Normal<Self::Buffer>>)>;
    /// What the norm returned: normal · weight + bias.
    fn norm_again(&self, normal: &Normal<Self::Buffer>, norm: &LayerNorm) -> Result<Self::Buffer>;
    /// With h = `grad` · weight, s the scale and n the normalised row: the gradient of the sum, s (h − mean(h) −
    /// n mean(h n)) + `plus`, and the same under the mask of `rows`, that of the product. Adds the gradients of weight and bias
    /// where they are trained. The sum is returned where `keep_sum`.
    fn norm_backward(
        &self,
        grad: Self::Product<'_>,
        normal: &Normal<Self::Buffer>,
        norm: &LayerNorm,
        plus: Option<Self::View<'_>>,
        rows: RowMask<'_>,
        keep_sum: bool,
    ) -> Result<NormGradients<Self::Buffer>>;

    // Attention.

    /// softmax(q kᵀ / √width + bias), dropped out, times v, for each head: [batch · queries, heads · width]. `bias`
    /// [batch, keys], if there is one, is added to every score of a key: never where keys are without padding. `mask` is laid out
    /// as [batch, heads, queries, keys]. Where queries or keys are without padding there are fewer rows than batch · queries or
    /// batch · keys; the mask has padding all the same.
    fn attend(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<Self::View<'_>>,
        bias: Option<Self::View<'_>>,
        mask: Option<Mask>,
        keep: bool,
    ) -> Result<(Self::Buffer, Option<Self::Attended>)>;
    /// The gradients of the projections, given that of the `result` of [`Backend::attend`]; all in one matrix where
    /// `together`.
    #[allow(clippy::too_many_arguments, reason = "what the pass reads")]
    fn attend_backward(
        &self,
        shape: AttentionShape<'_>,
        of: &Projections<Self::View<'_>>,
        bias: Option<Self::View<'_>>,
        mask: Option<Mask>,
        attended: &Self::Attended,
        result: Self::View<'_>,
        grad: Self::View<'_>,
        together: bool,
    ) -> Result<ProjectionGradients<Self::Buffer>>;

    // Rows and tables. Ids, places and labels are u32 tensors on the backend's device.

    /// `words[id] + positions[t] + types[0]`: [batch · tokens, width] for `ids` [batch, tokens].
    fn embed(&self, ids: &Tensor, tables: &TextTables) -> Result<Self::Buffer>;
    /// Adds the gradients of the tables that are trained.
    fn embed_gradients(&self, grad: Self::View<'_>, ids: &Tensor, tables: &TextTables) -> Result<()>;
    /// `x` [rows, width] plus the first row of `table`.
    fn add_first_row(&self, x: &mut Self::Buffer, table: &Param) -> Result<()>;
    /// Adds the sum of the rows of `grad` to the gradient of the first row of `table`, if it is trained.
    fn first_row_gradient(&self, grad: Self::View<'_>, table: &Param) -> Result<()>;
    /// Rows of `a` [batch, n, width] and then of `b` [batch, m, width], for each of the batch. `sizes` is (n, m) · width.
    fn concat(&self, a: Self::View<'_>, b: Self::View<'_>, sizes: (usize, usize)) -> Result<Self::Buffer>;
    /// The inverse of [`Backend::concat`].
    fn split(&self, x: Self::View<'_>, sizes: (usize, usize)) -> Result<(Self::Buffer, Self::Buffer)>;
    /// The first row of each sequence of keys of `x` [.., width].
    fn first_rows(&self, x: Self::View<'_>, shape: AttentionShape<'_>, width: usize) -> Result<Self::Buffer>;
    /// Adds `rows` to where [`Backend::first_rows`] read them.
    fn add_to_first_rows(
        &self,
        x: &mut Self::Buffer,
        rows: Self::View<'_>,
        shape: AttentionShape<'_>,
        width: usize,
    ) -> Result<()>;
    /// The rows of `x` [.., width] at `places`.
    fn select_rows(&self, x: Self::View<'_>, places: &Tensor, width: usize) -> Result<Self::Buffer>;
    /// `count` values, `rows` at `places` and zeros elsewhere; places are distinct.
    fn scatter_rows(
        &self,
        rows: Self::View<'_>,
        places: &Tensor,
        width: usize,
        count: usize,
    ) -> Result<Self::Buffer>;

    // Elementwise.

    /// `x` ← `x` under `mask`.
    fn dropout(&self, x: &mut Self::Buffer, mask: Mask) -> Result<()>;
    /// `a` · `b`.
    fn multiply(&self, a: Self::View<'_>, b: Self::View<'_>) -> Result<Self::Buffer>;
    /// `x` ← `x` times the one value of `factor`.
    fn scale_by(&self, x: &mut Self::Buffer, factor: Self::View<'_>) -> Result<()>;

    // Losses.

    /// Σ over rows of the cross-entropy of softmax(`logits` [rows, classes]) and `labels`, divided by `total`: one value;
    /// and its gradient where `keep`.
    fn cross_entropy(
        &self,
        logits: Self::View<'_>,
        labels: &Tensor,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Self::Buffer, Option<Self::Buffer>)>;
    /// Σ over rows of the mean over classes of the binary cross-entropy of sigmoid(`logits` [rows, classes]) and `targets`
    /// [rows, classes], divided by `total`: one value; and its gradient where `keep`.
    fn binary_cross_entropy(
        &self,
        logits: Self::View<'_>,
        targets: Self::View<'_>,
        classes: usize,
        total: usize,
        keep: bool,
    ) -> Result<(Self::Buffer, Option<Self::Buffer>)>;

    // Optimizer.

    /// One update of all `slots`: one launch on a GPU.
    fn adamw(&self, slots: &mut [AdamWSlot<'_>], betas: (f64, f64), eps: f64) -> Result<()>;
}

/// A trained parameter with its moments, and the scalars of one update (see `adamw.rs` for the formula).
#[derive(Debug)]
pub struct AdamWSlot<'a> {
    /// Its value is changed in place; its gradient is read.
    pub param: &'a Param,
    /// First moment.
    pub m: &'a mut Memory,
    /// Second moment.
    pub v: &'a mut Memory,
    /// η √(1 − β₂ᵗ) / (1 − β₁ᵗ)
    pub step: f64,
    /// η λ
    pub shrink: f64,
}

/// Memory of either backend: gradients and moments that outlive an operation.
#[derive(Debug)]
pub enum Memory {
    /// In host memory.
    Cpu(Vec<f32>),
    /// On a GPU.
    Gpu(super::gpu::Buffer),
    /// Of the composed reference, on any device.
    Tensor(Tensor),
}
