/** The script of a Web Worker. */
import { type BlobLike, blobSource } from '../files/blob-source.ts';
import { serve } from './serve.ts';

serve(({ file, offset, byteLength }) => blobSource(file as BlobLike, offset, byteLength));
