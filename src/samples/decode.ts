/**
 * JPEG and PNG to RGB pixels, with the same WebAssembly decoders (MozJPEG, image-rs) in Node and in the browser, so that
 * the same picture gives the same numbers everywhere. EXIF orientation is not applied, as Pillow does not.
 */
import type { MozJPEGModule } from '@jsquash/jpeg/codec/dec/mozjpeg_dec.js';
import { HalftoneError, messageOf } from '../base/errors.ts';
import type { Picture } from './resize.ts';

export type Codec = 'jpeg' | 'png';

/** Where the WebAssembly of a codec comes from; without one, the codec fetches its own file, as browsers can. */
export type LoadCodec = (codec: Codec) => Promise<WebAssembly.Module>;

export type DecodeImage = (bytes: Uint8Array, subject: string) => Promise<Picture>;

/** No picture larger than this is decoded: 8 bytes of file can declare billions of pixels. */
const maxPixels = 2 ** 26;

/**
 * A decoder that loads each codec when it first meets its format.
 * @returns a function to 3-channel pixels; alpha is dropped, gray is repeated. It throws HalftoneError `invalid-file` for
 * damaged pictures, `unsupported` for other formats and for more than 67 million pixels.
 */
export function createImageDecoder(load?: LoadCodec): DecodeImage {
  let jpeg: Promise<MozJPEGModule> | undefined;
  let png: Promise<(bytes: Uint8Array) => ImageData> | undefined;
  return async (bytes, subject) => {
    const { codec, width, height } = sniff(bytes, subject);
    if (width * height > maxPixels) {
      throw new HalftoneError(
        'unsupported',
        `${subject}: expected at most ${maxPixels} pixels, got ${width}×${height}; resize it first`,
      );
    }
    let image: ImageData | null;
    try {
      if (codec === 'jpeg') {
        jpeg ??= openJpeg(load);
        image = (await jpeg).decode(bytes as Uint8Array<ArrayBuffer>, false);
      } else {
        png ??= openPng(load);
        image = (await png)(bytes);
      }
    } catch (error) {
      // A trap leaves the codec's memory in doubt: the next picture gets a new one.
      if (codec === 'jpeg') jpeg = undefined;
      throw damaged(subject, codec, messageOf(error), error);
    }
    if (!image || image.width !== width || image.height !== height) {
      throw damaged(subject, codec, image ? `${image.width}×${image.height}` : 'no picture');
    }
    return withoutAlpha(image);
  };
}

function damaged(subject: string, codec: Codec, got: string, cause?: unknown): HalftoneError {
  return new HalftoneError('invalid-file', `${subject}: expected a whole ${codec.toUpperCase()} picture, got ${got}`, {
    cause,
  });
}

async function openJpeg(load: LoadCodec | undefined): Promise<MozJPEGModule> {
  const [{ default: factory }, { initEmscriptenModule }] = await Promise.all([
    import('@jsquash/jpeg/codec/dec/mozjpeg_dec.js'),
    import('@jsquash/jpeg/utils.js'),
  ]);
  return initEmscriptenModule(factory, load && (await load('jpeg')), { print: () => {}, printErr: () => {} } as object);
}

async function openPng(load: LoadCodec | undefined): Promise<(bytes: Uint8Array) => ImageData> {
  const { default: open, decode } = await import('@jsquash/png/codec/pkg/squoosh_png.js');
  await open(load && (await load('png')));
  return decode;
}

function withoutAlpha(image: ImageData): Picture {
  const { width, height } = image;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    data[i * 3] = image.data[i * 4];
    data[i * 3 + 1] = image.data[i * 4 + 1];
    data[i * 3 + 2] = image.data[i * 4 + 2];
  }
  return { width, height, channels: 3, data };
}

interface Kind {
  readonly codec: Codec;
  readonly width: number;
  readonly height: number;
}

/** The format and size, from the file's header. */
function sniff(bytes: Uint8Array, subject: string): Kind {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // PNG 3rd edition, 5.2 and 11.2.1: signature, then IHDR with width and height.
  if (bytes.length >= 24 && view.getUint32(0) === 0x89504e47 && view.getUint32(12) === 0x49484452) {
    return { codec: 'png', width: view.getUint32(16), height: view.getUint32(20) };
  }
  if (bytes.length >= 4 && view.getUint16(0) === 0xffd8) {
    const size = jpegSize(view);
    if (size) return { codec: 'jpeg', ...size };
    throw damaged(subject, 'jpeg', 'one without a frame header, a scan or its end');
  }
  throw new HalftoneError(
    'unsupported',
    `${subject}: expected a JPEG or PNG picture, got another format; convert it first`,
  );
}

/**
 * ITU-T T.81, B.1.1: segments from marker to marker up to the frame header (SOF0…SOF15 but DHT, JPG and DAC), then to the
 * first scan (SOS), after which an end marker (EOI) must follow: the decoder would fill a missing rest with gray.
 */
function jpegSize(view: DataView): { width: number; height: number } | undefined {
  let at = 2;
  let size: { width: number; height: number } | undefined;
  while (at + 9 <= view.byteLength && view.getUint8(at) === 0xff) {
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) {
      at += 1;
      continue;
    }
    if (marker === 0xda) return hasEnd(view, at) ? size : undefined;
    if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc) {
      size = { height: view.getUint16(at + 5), width: view.getUint16(at + 7) };
    }
    at += 2 + view.getUint16(at + 2);
  }
  return undefined;
}

function hasEnd(view: DataView, start: number): boolean {
  for (let at = view.byteLength - 2; at > start; at--) if (view.getUint16(at) === 0xffd9) return true;
  return false;
}
