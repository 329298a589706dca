//! The crate as a library, without any runtime: a complete toy link in one function.

use semlink_channel::{ChannelConfig, ChannelUses, Complex32, FrameKey, RicianK, SnrDb, equalize, iq, limit, power};

/// Four messages as four orthogonal waveforms of 8 uses over a Rician channel; the correct ones among 2,000 stay below what the simplex
/// limit allows and, orthogonal signals being close to it, not far below.
#[test]
fn a_link_in_one_function() -> Result<(), Box<dyn std::error::Error>> {
    const MESSAGES: usize = 4;
    const FRAMES: u64 = 2_000;
    let uses = ChannelUses::try_new(8)?;
    let channel =
        ChannelConfig { coherence: 4, ..ChannelConfig::rician(SnrDb::try_new(-4.0)?, RicianK::try_new_db(6.0)?) };

    // Rows of a Hadamard matrix, each spread over both blocks.
    let waveforms: Vec<Vec<Complex32>> = (0..MESSAGES)
        .map(|message| {
            let sign = |i: usize| {
                if (i & message).count_ones().is_multiple_of(2) { 3.0 } else { -3.0 }
            };
            let mut waveform: Vec<_> = (0..uses.get()).map(|i| Complex32::new(sign(i), 0.0)).collect();
            power::normalize(&mut waveform).map(|_| waveform)
        })
        .collect::<Result<_, _>>()?;

    let mut correct = 0;
    for frame in 0..FRAMES {
        let sent = (frame % MESSAGES as u64) as usize;
        let mut symbols = iq::decode(&iq::encode(&waveforms[sent]))?;
        let key = FrameKey { seed: 3, link: 0, stream: 0, frame };
        let applied = channel.apply(key, &mut symbols);
        let received = equalize::mmse(&symbols, &applied.state)?;
        // Maximum likelihood: the unbiased estimate weighed by its precision is, up to a common factor, x_hat / noise_var.
        let score = |waveform: &Vec<Complex32>| -> f32 {
            let weighed = received.symbols.iter().zip(&received.noise_var).map(|(x, v)| x / v);
            waveform.iter().zip(weighed).map(|(w, x)| (w.conj() * x).re).sum()
        };
        let scores: Vec<f32> = waveforms.iter().map(score).collect();
        correct += usize::from((0..MESSAGES).all(|other| other == sent || scores[other] < scores[sent]));
    }
    let rate = correct as f64 / FRAMES as f64;
    let bound = limit::detection(MESSAGES, &channel, uses)?;
    // Orthogonal signals of energy E are simplex signals of energy E (M-1)/M: 1.25 dB less.
    let less = ChannelConfig { snr: SnrDb::try_new(channel.snr.db() - 1.249_4)?, ..channel };
    let expected = limit::detection(MESSAGES, &less, uses)?;
    let tolerance = 5.0 * (expected * (1.0 - expected) / FRAMES as f64).sqrt();
    assert!((rate - expected).abs() < tolerance && rate < bound, "{rate}, expected {expected}, limit {bound}");
    Ok(())
}
