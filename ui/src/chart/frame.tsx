// Axes, grid and marks of a chart; what is drawn inside comes as children.

import type { ComponentChildren, RefObject, VNode } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { ticks, type Scale } from './scale';

export const MARGIN = { left: 56, right: 20, top: 10, bottom: 38 };

interface Props {
  width: number;
  height: number;
  x: Scale;
  y: Scale;
  xLabel: string;
  yLabel: string;
  /** What a screen reader hears in place of the picture. */
  description: string;
  onMove?: (pixel: number | undefined) => void;
  children: ComponentChildren;
}

export function Frame({ width, height, x, y, xLabel, yLabel, description, onMove, children }: Props): VNode {
  const bottom = height - MARGIN.bottom;
  const right = width - MARGIN.right;
  const move = (event: PointerEvent): void => {
    const box = (event.currentTarget as SVGSVGElement).getBoundingClientRect();
    const pixel = event.clientX - box.left;
    onMove?.(pixel < MARGIN.left || pixel > right ? undefined : pixel);
  };
  return (
    <svg
      class="chart"
      width={width}
      height={height}
      role="img"
      aria-label={description}
      onPointerMove={move}
      onPointerLeave={() => onMove?.(undefined)}
    >
      <g class="axis">
        {ticks(x, width / 110).map(({ value, label }) => (
          <g key={value}>
            <line class="grid-line" x1={x.at(value)} x2={x.at(value)} y1={MARGIN.top} y2={bottom} />
            <text x={x.at(value)} y={bottom + 15} text-anchor="middle">
              {label}
            </text>
          </g>
        ))}
        {ticks(y, height / 48).map(({ value, label }) => (
          <g key={value}>
            <line class="grid-line" x1={MARGIN.left} x2={right} y1={y.at(value)} y2={y.at(value)} />
            <text x={MARGIN.left - 7} y={y.at(value) + 4} text-anchor="end">
              {label}
            </text>
          </g>
        ))}
        <line class="base-line" x1={MARGIN.left} x2={right} y1={bottom} y2={bottom} />
        <text class="axis-name" x={right} y={height - 4} text-anchor="end">
          {xLabel}
        </text>
        <text class="axis-name" x={MARGIN.left} y={height - 4}>
          {yLabel}
        </text>
      </g>
      {children}
    </svg>
  );
}

/** The points of a line as a path; a value that cannot be shown breaks it. */
export function pathOf(points: [number, number][], x: Scale, y: Scale): string {
  let pen = 'M';
  let out = '';
  for (const [px, py] of points) {
    const [a, b] = [x.at(px), y.at(py)];
    if (!Number.isFinite(a) || !Number.isFinite(b)) {
      pen = 'M';
      continue;
    }
    out += `${pen}${a.toFixed(1)} ${b.toFixed(1)}`;
    pen = 'L';
  }
  return out;
}

/** Width of an element, followed as it changes. */
export function useWidth<T extends HTMLElement>(): [RefObject<T | null>, number] {
  const place = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    setWidth(element.clientWidth);
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [place, width];
}
