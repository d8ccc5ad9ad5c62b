/** Workers that die over their first job, as many of them in a row as the address says: `mortal.js?deaths=1`. */
const deaths = Number(new URLSearchParams(self.location.search).get('deaths'));
const key = (death: number) => `${self.location.search}#${death}`;

for (let death = 0; death < deaths; death++) {
  if (await caches.has(key(death))) continue;
  await caches.open(key(death));
  self.addEventListener('message', (event) => {
    event.stopImmediatePropagation();
    throw new Error('a worker died, as it was told to');
  });
  break;
}
await import('halftone/worker');

export {};
