/** Node only: the script of a worker thread. */
import { type FileIdentity, fileSource } from '../files/file-source.ts';
import { serve } from './serve.ts';

serve(({ file, offset, byteLength }) => fileSource(file as FileIdentity, offset, byteLength));
