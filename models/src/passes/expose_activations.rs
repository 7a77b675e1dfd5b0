use crate::graph::{Dim, Graph, ValueInfo};
use crate::{ModelError, Result};

use super::trial_shapes;

/// Makes further outputs of the named values, in this order, after those that the graph has. What it computed it still
/// computes, bit for bit. Inputs and outputs are left out: whoever runs the graph has them already.
///
/// Axes that depend on the size of an input are named after the value and counted (`….axis2`).
///
/// # Errors
/// [`ModelError::Graph`] when there is no such value, or it is a parameter or no float.
pub fn expose_activations<'a>(graph: &mut Graph, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let types = graph.element_types()?;
    // An axis that is as long with other lengths of the inputs is as long with all of them.
    let (one, other) = (trial_shapes(graph, 64)?, trial_shapes(graph, 128)?);
    for name in names {
        let has = |infos: &[ValueInfo]| infos.iter().any(|info| info.name == name);
        if has(&graph.inputs) || has(&graph.outputs) {
            continue;
        }
        let fail = |what: String| Err(ModelError::Graph { graph: graph.name.clone(), what });
        if !graph.nodes.iter().any(|n| n.output == name) {
            return fail(format!(
                "no operator computes a value `{name}`; were the names taken from another model, or before another pass?"
            ));
        }
        if types.get(name) != Some(&crate::graph::ElementType::Float) {
            return fail(format!("the value `{name}` is {:?}, and outputs are 32-bit floats", types.get(name)));
        }
        let dims = one[name]
            .iter()
            .zip(&other[name])
            .enumerate()
            .map(|(axis, (&a, &b))| if a == b { Dim::Fixed(a) } else { Dim::Named(format!("{name}.axis{axis}")) });
        let info = ValueInfo { name: name.to_owned(), dims: dims.collect() };
        graph.outputs.push(info);
    }
    Ok(())
}
