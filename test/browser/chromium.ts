/** Chromium, where it is installed, and a page in it whose every complaint is kept. */
import { existsSync, readFileSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';

/** Where systems put it: Debian, Ubuntu, Fedora, macOS. */
const places = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

const executable = places.find((path) => existsSync(path));

export const haveChromium = executable !== undefined;
if (!haveChromium)
  console.warn('skipped: the tests in a browser need Chromium, which is absent; apt-get install chromium');

/** Neither a sandbox, which root cannot have, nor anything that looks for the internet. */
const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export interface OpenPage {
  readonly page: Page;
  /** Errors and warnings of the page and its workers, and requests that failed. */
  readonly complaints: readonly string[];
  /** MiB that the page's process has held at most, its workers included; undefined where the system does not tell. */
  peakMemory(): Promise<number | undefined>;
  close(): Promise<void>;
}

/** Starts Chromium without a window, with a new profile, and opens a page. */
export async function openPage(url: string): Promise<OpenPage> {
  const browser: Browser = await chromium.launch({ executablePath: executable!, headless: true, args: flags });
  const page = await browser.newPage();
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(`error: ${error.stack ?? error.message}`));
  page.on('crash', () => complaints.push('the page crashed'));
  page.on('console', (message) => {
    if (['error', 'warning', 'assert'].includes(message.type())) complaints.push(`console: ${message.text()}`);
  });
  page.on('requestfailed', (request) =>
    complaints.push(`request: ${request.url()} ${request.failure()?.errorText ?? ''}`),
  );
  await page.goto(url);
  return { page, complaints, peakMemory: () => peakMemory(browser), close: () => browser.close() };
}

async function peakMemory(browser: Browser): Promise<number | undefined> {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const peaks = processInfo
    .filter(({ type }) => type === 'renderer')
    .map(({ id }) => `/proc/${id}/status`)
    .filter((path) => existsSync(path))
    .map((path) => Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(path, 'utf8'))?.[1]) / 1024);
  return peaks.length > 0 ? Math.max(...peaks) : undefined;
}
