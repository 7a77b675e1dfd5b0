//! temp
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let frame = segcore::image_io::read_rgb(path).unwrap();
    for _ in 0..10 {
    let t = std::time::Instant::now();
    oversegment::pmi::edges(&frame.view(), &oversegment::pmi::PmiSpec::fast()).unwrap();
    println!("{:?}", t.elapsed());
    }
}
