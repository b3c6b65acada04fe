//! A list of names and shapes, and what each block adds to it.

use super::LayerSize;

/// Names and shapes of parameters.
#[derive(Debug, Default)]
pub struct Shapes(pub Vec<(String, Vec<usize>)>);

impl Shapes {
    pub fn push(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_owned(), shape.to_vec()));
    }

    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.push(&format!("{name}.weight"), &[outputs, inputs]);
        self.push(&format!("{name}.bias"), &[outputs]);
    }

    pub fn norm(&mut self, name: &str, size: usize) {
        self.push(&format!("{name}.weight"), &[size]);
        self.push(&format!("{name}.bias"), &[size]);
    }

    /// The layer `name`, with an adapter `narrow` wide at the end of each of `parts`.
    pub fn layer(&mut self, name: &str, size: &LayerSize, narrow: usize, parts: &[&str]) {
        let hidden = size.hidden;
        for part in ["query", "key", "value"] {
            self.linear(&format!("{name}.attention.self.{part}"), hidden, hidden);
        }
        self.linear(&format!("{name}.attention.output.dense"), hidden, hidden);
        self.norm(&format!("{name}.attention.output.LayerNorm"), hidden);
        self.linear(&format!("{name}.intermediate.dense"), hidden, size.inner);
        self.linear(&format!("{name}.output.dense"), size.inner, hidden);
        self.norm(&format!("{name}.output.LayerNorm"), hidden);
        for part in parts {
            self.adapter(&format!("{name}.{part}.{}", size.adapter), hidden, narrow);
        }
    }

    pub fn adapter(&mut self, name: &str, width: usize, narrow: usize) {
        self.linear(&format!("{name}1"), width, narrow);
        self.linear(&format!("{name}2"), narrow, width);
    }

    pub fn classifier(&mut self, width: usize) {
        self.linear("model.classifier.0.dense", width, width);
        self.norm("model.classifier.0.LayerNorm", width);
        self.linear("model.classifier.1", width, 2);
    }

    pub fn mlm_head(&mut self, words: usize, hidden: usize) {
        self.linear("model.cls.predictions.transform.dense", hidden, hidden);
        self.norm("model.cls.predictions.transform.LayerNorm", hidden);
        self.push("model.cls.predictions.bias", &[words]);
    }
}
