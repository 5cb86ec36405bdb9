// Notes the longest task of the page, and keeps the page busy for a moment so that there is one.
self.longest = 0;
self.tasks ??= new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) self.longest = Math.max(self.longest, entry.duration);
});
self.tasks.observe({ type: 'longtask' });
setTimeout(() => {
  const until = performance.now() + 100;
  while (performance.now() < until);
});
