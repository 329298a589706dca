//! How messages are buffered.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a call's buffers begin with, in bytes. Most messages here (small images, frames, reports) fit, and a buffer grows with its message.
/// tonic's own 8 KiB, once in each direction, are most of the memory of a call, of which there may be thousands.
const BUFFER: usize = 1 << 10;
/// Messages of a stream that are ready together are handed to the connection in pieces of about so many bytes, as tonic has it.
const PIECE: usize = 32 << 10;

/// [`ProstCodec`] with small buffers.
#[derive(Debug, Clone)]
pub struct LeanCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for LeanCodec<T, U> {
    fn default() -> Self {
        LeanCodec(PhantomData)
    }
}

impl<T, U> Codec for LeanCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, PIECE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, PIECE))
    }
}
