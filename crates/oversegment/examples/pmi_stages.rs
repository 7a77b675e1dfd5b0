//! temp
use std::time::Instant;
use oversegment::pmi::*;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let frame = segcore::image_io::read_rgb(path).unwrap();
    let t = Instant::now();
    let f = Features::colour(&frame.view(), 1).unwrap();
    let v = Features::variation(&frame.view(), 1).unwrap();
    println!("features {:?}", t.elapsed());
    let _ = (f, v);
    for spec in [PmiSpec::fast(), PmiSpec::accurate()] {
        let t = Instant::now();
        let e = edges(&frame.view(), &spec).unwrap();
        println!("{:?} {:?}", spec.solver, t.elapsed());
        let t = Instant::now();
        let u = oversegment::owt_ucm::owt_ucm(&e);
        println!("owt {:?} {}", t.elapsed(), u.leaves().num_basins);
    }
}
