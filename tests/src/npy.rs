//! `.npy` files of every kind, made by hand, and matrices whose products are known.

use potluck_types::{DType, MatmulShape};

/// A file of any version with any header text and data; the header is padded as numpy pads it.
///
/// # Panics
/// A version other than 1 to 3.
pub fn raw(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let before = if version == 1 { 10 } else { 12 };
    let length = (before + header.len() + 1).next_multiple_of(64) - before;
    let mut file = b"\x93NUMPY".to_vec();
    file.extend([version, 0]);
    match version {
        1 => file.extend((length as u16).to_le_bytes()),
        2 | 3 => file.extend((length as u32).to_le_bytes()),
        other => panic!("version {other} is made by hand"),
    }
    file.extend(header.as_bytes());
    file.resize(before + length - 1, b' ');
    file.push(b'\n');
    file.extend(data);
    file
}

/// The header that numpy writes.
pub fn header(descr: &str, fortran: bool, shape: &[usize]) -> String {
    let order = if fortran { "True" } else { "False" };
    let numbers: Vec<_> = shape.iter().map(ToString::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({}{comma}), }}", numbers.join(", "))
}

/// A whole file of a matrix that is given row by row.
///
/// # Panics
/// An element type that has no encoding here.
pub fn file(version: u8, descr: &str, fortran: bool, shape: &[usize], values: &[f64]) -> Vec<u8> {
    let (rows, cols) = if let [rows, cols] = *shape { (rows, cols) } else { (1, values.len()) };
    let mut data = Vec::new();
    let mut put = |at: usize| encode(descr, values[at], &mut data);
    if fortran {
        (0..cols).for_each(|col| (0..rows).for_each(|row| put(row * cols + col)));
    } else {
        (0..rows * cols).for_each(&mut put);
    }
    raw(version, &header(descr, fortran, shape), &data)
}

/// An f32 file of version 1 in C order.
pub fn f32_file(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let mut data = Vec::with_capacity(values.len() * 4);
    values.iter().for_each(|value| data.extend(value.to_le_bytes()));
    raw(1, &header("<f4", false, shape), &data)
}

fn encode(descr: &str, value: f64, out: &mut Vec<u8>) {
    let (order, kind) = descr.split_at(1);
    let start = out.len();
    match kind {
        "b1" => out.push(u8::from(value != 0.0)),
        "i1" => out.push((value as i8).cast_unsigned()),
        "u1" => out.push(value as u8),
        "i2" => out.extend((value as i16).to_le_bytes()),
        "u2" => out.extend((value as u16).to_le_bytes()),
        "i4" => out.extend((value as i32).to_le_bytes()),
        "u4" => out.extend((value as u32).to_le_bytes()),
        "i8" => out.extend((value as i64).to_le_bytes()),
        "u8" => out.extend((value as u64).to_le_bytes()),
        "f2" => out.extend(half(value).to_le_bytes()),
        "f4" => out.extend((value as f32).to_le_bytes()),
        "f8" => out.extend(value.to_le_bytes()),
        other => panic!("{other} is not written here"),
    }
    if order == ">" {
        out[start..].reverse();
    }
}

/// IEEE binary16 of values that it holds exactly: integers up to 2,048 in magnitude, NaN, infinities.
fn half(value: f64) -> u16 {
    let sign = u16::from(value.is_sign_negative()) << 15;
    if value.is_nan() {
        return sign | 0x7e00;
    }
    if value == 0.0 || value.is_infinite() {
        return if value == 0.0 { sign } else { sign | 0x7c00 };
    }
    let bits = value.abs().to_bits();
    let exponent = (bits >> 52) as i32 - 1023 + 15;
    sign | (exponent as u16) << 10 | (bits >> 42) as u16 & 0x3ff
}

/// Shape and elements of a file, read by a library that shares no code with the relay.
///
/// # Panics
/// It is no `.npy` file of f32 or i32.
pub fn read(bytes: &[u8]) -> (Vec<u64>, Vec<f64>) {
    let file = npyz::NpyFile::new(bytes).expect("a .npy file");
    let shape = file.shape().to_vec();
    let descr = file.dtype().descr();
    let values = if descr.contains("f4") {
        file.into_vec::<f32>().expect("f32").into_iter().map(f64::from).collect()
    } else {
        file.into_vec::<i32>().expect("i32").into_iter().map(f64::from).collect()
    };
    (shape, values)
}

/// Numbers that look random and are the same everywhere (splitmix64), uniform in [0, 1).
pub fn uniform(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    })
}

/// Whole numbers from `low` to `high`, both included.
pub fn integers(seed: u64, low: i32, high: i32) -> impl Iterator<Item = f64> {
    let span = f64::from(high - low + 1);
    uniform(seed).map(move |x| (x * span).floor() + f64::from(low))
}

/// C = A·B in f64, the plain way. `b` is K x N, or N x K if it is transposed.
pub fn product(shape: MatmulShape, a: &[f64], b: &[f64], transposed: bool) -> Vec<f64> {
    let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let x = a[i * k + p];
            for j in 0..n {
                let y = if transposed { b[j * k + p] } else { b[p * n + j] };
                c[i * n + j] += x * y;
            }
        }
    }
    c
}

/// The position of the first element of `c` that no honest kernel would return.
///
/// f32: farther from the f64 product than gamma(K) times the product of magnitudes, with the unit roundoff of
/// devices that truncate. int8: not equal.
pub fn first_wrong(
    shape: MatmulShape,
    dtype: DType,
    [a, b]: [&[f64]; 2],
    transposed: bool,
    c: &[f64],
) -> Option<(usize, f64, f64)> {
    let expected = product(shape, a, b, transposed);
    assert_eq!(c.len(), expected.len());
    let magnitude = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let scale = product(shape, &magnitude(a), &magnitude(b), transposed);
    let ku = f64::from(shape.k + 1) * f64::powi(2.0, -23);
    let gamma = if dtype == DType::F32 { ku / (1.0 - ku) } else { 0.0 };
    let wrong = |i: &usize| !((c[*i] - expected[*i]).abs() <= gamma * scale[*i]);
    (0..c.len()).find(wrong).map(|i| (i, c[i], expected[i]))
}

/// Two large matrices of small whole numbers, and their exact product: both have rank `RANK`, so the product costs
/// O(MN) and needs no kernel. Every f32 sum of it is exact in any order.
pub struct LowRank {
    /// A, M x K.
    pub a: Vec<f32>,
    /// B, K x N.
    pub b: Vec<f32>,
    /// C, M x N.
    pub c: Vec<f64>,
}

/// Rank of [`LowRank`]'s matrices.
const RANK: usize = 2;

impl LowRank {
    /// A = P·Q and B = R·S with entries of P and S from -1 to 1, of Q and R from -2 to 2: magnitudes up to 4 in A
    /// and B, so sums stay below 2^24 up to K = 2^20.
    pub fn new(shape: MatmulShape, seed: u64) -> Self {
        let (m, k, n) = (shape.m as usize, shape.k as usize, shape.n as usize);
        let draw = |part: u64, count: usize, most: i32| {
            integers(seed ^ part, -most, most).take(count).collect::<Vec<f64>>()
        };
        let (p, q) = (draw(1 << 32, m * RANK, 1), draw(2 << 32, RANK * k, 2));
        let (r, s) = (draw(3 << 32, k * RANK, 2), draw(4 << 32, RANK * n, 1));
        let of = |m, k, n| MatmulShape { m: m as u32, k: k as u32, n: n as u32 };
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        let inner = product(of(RANK, k, RANK), &q, &r, false);
        let left = product(of(m, RANK, RANK), &p, &inner, false);
        Self {
            a: narrow(product(of(m, RANK, k), &p, &q, false)),
            b: narrow(product(of(k, RANK, n), &r, &s, false)),
            c: product(of(m, RANK, n), &left, &s, false),
        }
    }
}
